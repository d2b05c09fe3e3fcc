// SPDX-License-Identifier: GPL-2.0-only
/*
 * Merging: write-protect, compare, replace.
 *
 * Nothing but equality of all bytes merges pages, and it is judged while
 * neither page can change: both mapped read-only with TLBs flushed, the folio
 * locked, and no reference on it that is not accounted for.
 */
#include <linux/highmem.h>
#include <linux/memcontrol.h>
#include <linux/mmu_notifier.h>
#include <linux/pagewalk.h>
#include <linux/rmap.h>
#include <linux/swap.h>
#include <linux/userfaultfd_k.h>
#include <asm/tlbflush.h>

#include "ksm.h"

/**
 * ksm_get_page - take a reference on the anonymous page mapped at an address
 * @vma: the VMA
 * @addr: page aligned, inside @vma
 *
 * Context: mmap_lock held; may sleep.
 * Return: the page, of a merged folio perhaps, or NULL.
 */
struct page *ksm_get_page(struct vm_area_struct *vma, unsigned long addr)
{
	struct page *page = NULL;
	struct folio_walk fw;
	struct folio *folio;

	folio = folio_walk_start(&fw, vma, addr, 0);
	if (!folio)
		return NULL;
	if (folio_test_anon(folio) && !folio_is_zone_device(folio) && !PageHWPoison(fw.page)) {
		folio_get(folio);
		page = fw.page;
	}
	folio_walk_end(&fw, vma);
	return page;
}

/* References of page tables, of the swap cache and of the caller. */
static bool refs_accounted_for(const struct folio *folio)
{
	return folio_ref_count(folio) == folio_mapcount(folio) + folio_test_swapcache(folio) + 1;
}

/*
 * Makes the PTE read-only and clean; called with its lock held.
 *
 * Who has a writable or exclusive mapping may pin the page for writing without
 * a fault. So the PTE goes first and TLBs are flushed, which ends GUP-fast and
 * plain stores alike; then references are counted, which finds those that were
 * faster; then the page stops being exclusive, which fails on pins. Only when
 * all that holds the page cannot change any more. If not, the PTE comes back
 * as it was. A pending flush means that another CPU may still write through a
 * PTE that was made read-only by somebody else.
 */
static int write_protect_pte(struct vm_area_struct *vma, unsigned long addr, pte_t *ptep,
			     struct folio *folio, struct page *page, pte_t *result)
{
	struct mm_struct *mm = vma->vm_mm;
	bool exclusive = PageAnonExclusive(page);
	pte_t pte = ptep_get(ptep);

	/* Protection that traps reads too would be lost with the old PTE. */
	if (userfaultfd_rwp(vma) && pte_uffd(pte))
		return -EAGAIN;

	if (!exclusive && !pte_write(pte) && !pte_dirty(pte) && !mm_tlb_flush_pending(mm)) {
		*result = pte;
		return refs_accounted_for(folio) ? 0 : -EAGAIN;
	}

	flush_cache_page(vma, addr, pte_pfn(pte));
	pte = ptep_clear_flush(vma, addr, ptep);
	if (!refs_accounted_for(folio) ||
	    (exclusive && folio_try_share_anon_rmap_pte(folio, page))) {
		set_pte_at(mm, addr, ptep, pte);
		return -EAGAIN;
	}
	if (pte_dirty(pte))
		folio_mark_dirty(folio);
	pte = pte_wrprotect(pte_mkclean(pte));
	set_pte_at(mm, addr, ptep, pte);
	*result = pte;
	return 0;
}

/*
 * Takes away every way of writing to the page mapped at an address. The caller
 * holds the mmap_lock, the folio's lock and one reference. Other mappings of
 * the folio are read-only already, or the page would be exclusive to this one.
 */
static int write_protect(struct vm_area_struct *vma, unsigned long addr, struct folio *folio,
			 struct page *page, pte_t *pte)
{
	DEFINE_FOLIO_VMA_WALK(pvmw, folio, vma, addr, 0);
	struct mmu_notifier_range range;
	int err = -EAGAIN;

	mmu_notifier_range_init(&range, MMU_NOTIFY_CLEAR, 0, vma->vm_mm, addr, addr + PAGE_SIZE);
	mmu_notifier_invalidate_range_start(&range);
	if (page_vma_mapped_walk(&pvmw)) {
		if (!WARN_ON_ONCE(!pvmw.pte))
			err = write_protect_pte(vma, addr, pvmw.pte, folio, page, pte);
		page_vma_mapped_walk_done(&pvmw);
	}
	mmu_notifier_invalidate_range_end(&range);
	return err;
}

/* The old PTE's marks for userfaultfd and soft-dirty tracking live on. */
static pte_t merged_pte(struct vm_area_struct *vma, struct page *kpage, pte_t old)
{
	pte_t pte = pte_wrprotect(mk_pte(kpage, vma->vm_page_prot));

	if (pte_uffd(old))
		pte = pte_mkuffd(pte);
	if (pte_soft_dirty(old))
		pte = pte_mksoft_dirty(pte);
	return pte;
}

/*
 * Puts the merged page in place of an equal one, if the PTE still is what
 * write_protect() left. Both folios are locked. Charges and anonymous counts
 * do not change; the mlock count follows the page that goes.
 */
static int replace_page(struct vm_area_struct *vma, unsigned long addr, struct page *page,
			struct page *kpage, pte_t expected)
{
	struct mm_struct *mm = vma->vm_mm;
	struct folio *folio = page_folio(page), *kfolio = page_folio(kpage);
	struct mmu_notifier_range range;
	spinlock_t *ptl;
	int err = -EAGAIN;
	pte_t *ptep;
	pmd_t *pmd;

	pmd = mm_find_pmd(mm, addr);
	if (!pmd)
		return err;
	mmu_notifier_range_init(&range, MMU_NOTIFY_CLEAR, 0, mm, addr, addr + PAGE_SIZE);
	mmu_notifier_invalidate_range_start(&range);
	ptep = pte_offset_map_lock(mm, pmd, addr, &ptl);
	if (!ptep)
		goto out;
	if (!pte_same(ptep_get(ptep), expected))
		goto unlock;

	VM_WARN_ON_ONCE_PAGE(PageAnonExclusive(page), page);
	VM_WARN_ON_ONCE_FOLIO(PageAnonExclusive(kpage), kfolio);
	folio_get(kfolio);
	folio_add_anon_rmap_pte(kfolio, kpage, vma, addr, RMAP_NONE);

	/* Readers of the old page must be through before it is freed. */
	flush_cache_page(vma, addr, pte_pfn(expected));
	ptep_clear_flush(vma, addr, ptep);
	set_pte_at(mm, addr, ptep, merged_pte(vma, kpage, expected));

	folio_remove_rmap_pte(folio, page, vma);
	if (!folio_mapped(folio))
		folio_free_swap(folio);
	folio_put(folio);
	err = 0;
unlock:
	pte_unmap_unlock(ptep, ptl);
out:
	mmu_notifier_invalidate_range_end(&range);
	return err;
}

/*
 * Locks a page's folio and makes sure it is small. Splitting keeps the lock
 * and the reference on @page. Never waits: its owner may hold other locks.
 */
static struct folio *lock_small_folio(struct page *page)
{
	struct folio *folio = page_folio(page);

	if (!folio_trylock(folio))
		return ERR_PTR(-EAGAIN);
	if (unlikely(page_folio(page) != folio || folio_test_ksm(folio) ||
		     folio_test_lazyfree(folio)))
		goto unlock;
	if (!folio_test_large(folio))
		return folio;
	if (split_huge_page(page))
		goto unlock;
	return page_folio(page);
unlock:
	folio_unlock(folio);
	return ERR_PTR(-EAGAIN);
}

/* The record gives up what it has and owns the site from now on. */
static int record_site(struct ksm_mm *kmm, unsigned long addr, struct ksm_site *site)
{
	struct ksm_record rec;
	int err = ksm_track_get(&kmm->track, addr, KSM_GFP, &rec);

	if (err)
		return err;
	if (!ksm_forget_record(kmm, rec, false))
		return -EAGAIN;
	ksm_track_set(&kmm->track, rec, KSM_MERGED, (union ksm_word){ .site = site });
	return 0;
}

/* Undoes that, with the site attached to a node of a folio that is locked. */
static void drop_site(struct ksm_mm *kmm, unsigned long addr, struct folio *kfolio)
{
	struct ksm_record rec;
	struct ksm_site *site;

	if (WARN_ON_ONCE(!ksm_track_find(&kmm->track, addr, &rec)))
		return;
	site = ksm_record_word(rec).site;
	ksm_track_set(&kmm->track, rec, KSM_UNSEEN, (union ksm_word){});
	ksm_stable_detach(site, kfolio);
}

static struct ksm_site *site_at(struct vm_area_struct *vma, unsigned long addr)
{
	return ksm_site_alloc(vma->anon_vma, linear_anon_page_index(vma, addr));
}

/*
 * The site is attached before the PTE changes: at no time is there a mapping
 * that reverse-mapping walks would miss.
 */
static int merge_locked(struct ksm_mm *kmm, struct vm_area_struct *vma, unsigned long addr,
			struct page *page, struct folio *kfolio)
{
	struct page *kpage = folio_page(kfolio, 0);
	struct ksm_stable *stable = ksm_folio_stable(kfolio);
	struct ksm_site *site;
	struct folio *folio;
	pte_t pte;
	int err;

	if (!stable)
		return -ENOENT;
	/* Reclaim may drop what one owner gave up by MADV_FREE: not for others. */
	if (folio_test_lazyfree(kfolio) || folio_test_hwpoison(kfolio))
		return -EAGAIN;
	if (PageCompound(page) && !pages_identical(page, kpage))
		return -ENOENT;
	folio = lock_small_folio(page);
	if (IS_ERR(folio))
		return PTR_ERR(folio);

	err = write_protect(vma, addr, folio, page, &pte);
	if (err)
		goto unlock;
	err = -ENOENT;
	if (!pages_identical(page, kpage))
		goto unlock;
	err = -ENOMEM;
	site = site_at(vma, addr);
	if (!site)
		goto unlock;
	ksm_stable_attach(stable, site);
	err = record_site(kmm, addr, site);
	if (err) {
		ksm_stable_detach(site, kfolio);
		goto unlock;
	}
	/* MADV_FREE by its only owner may have cleaned it and be half way. */
	folio_mark_dirty(kfolio);
	err = replace_page(vma, addr, page, kpage, pte);
	if (err)
		drop_site(kmm, addr, kfolio);
unlock:
	folio_unlock(folio);
	return err;
}

/**
 * ksm_merge - let the page at an address be replaced by a merged folio
 * @kmm: whose page
 * @vma: mergeable
 * @addr: page aligned, inside @vma
 * @kfolio: with a reference; adopted if it is mapped there already
 *
 * Context: the mmap_lock and @kmm locked; waits for no folio.
 * Return: 0; -ENOENT when there is no page or it differs; -EAGAIN when it or
 * the folio is in use otherwise; -ENOMEM.
 */
int ksm_merge(struct ksm_mm *kmm, struct vm_area_struct *vma, unsigned long addr,
	      struct folio *kfolio)
{
	struct page *page = ksm_get_page(vma, addr);
	int err = -EAGAIN;

	if (!page)
		return -ENOENT;
	if (page_folio(page) == kfolio) {
		err = ksm_adopt(kmm, vma, addr, kfolio);
	} else if (folio_trylock(kfolio)) {
		err = merge_locked(kmm, vma, addr, page, kfolio);
		folio_unlock(kfolio);
	}
	put_page(page);
	return err;
}

/**
 * ksm_adopt - enter a mapping of a merged folio that came by fork or swap-in
 * @kmm: whose mapping
 * @vma: mergeable
 * @addr: page aligned, inside @vma
 * @kfolio: with a reference; mapped at @addr when the caller looked
 *
 * Context: the mmap_lock and @kmm locked; waits for no folio.
 * Return: 0; -EAGAIN; -ENOMEM; -ENOENT for a folio that is no merged one.
 */
int ksm_adopt(struct ksm_mm *kmm, struct vm_area_struct *vma, unsigned long addr,
	      struct folio *kfolio)
{
	struct ksm_stable *stable;
	struct ksm_site *site;
	int err = -ENOENT;

	if (!folio_trylock(kfolio))
		return -EAGAIN;
	if (!folio_test_ksm(kfolio))
		goto unlock;
	stable = ksm_folio_stable(kfolio);
	if (!stable)
		goto unlock;
	err = -ENOMEM;
	site = site_at(vma, addr);
	if (!site)
		goto unlock;
	ksm_stable_attach(stable, site);
	err = record_site(kmm, addr, site);
	if (err)
		ksm_stable_detach(site, kfolio);
unlock:
	folio_unlock(kfolio);
	return err;
}

/* All that can fail comes first. The record has the site then. */
static int plant_node(struct ksm_mm *kmm, struct vm_area_struct *vma, unsigned long addr,
		      struct folio *folio, u64 key)
{
	struct ksm_stable *stable = ksm_stable_alloc();
	struct ksm_site *site;
	int err = -ENOMEM;

	if (!stable)
		return err;
	site = site_at(vma, addr);
	if (!site)
		goto free;
	err = record_site(kmm, addr, site);
	if (err)
		goto free_site;
	/* Only swap may have the contents else, and the PTEs will be clean. */
	folio_mark_dirty(folio);
	ksm_stable_plant(stable, folio, key);
	ksm_stable_attach(stable, site);
	return 0;
free_site:
	ksm_site_free(site);
free:
	ksm_stable_free(stable);
	return err;
}

/* An anonymous folio with the contents of @page, locked and charged. */
static struct folio *copy_of(struct page *page, struct vm_area_struct *vma, unsigned long addr)
{
	struct folio *folio = folio_alloc(KSM_GFP | __GFP_HIGHMEM | __GFP_MOVABLE, 0);

	if (!folio)
		return NULL;
	if (mem_cgroup_charge(folio, vma->vm_mm, KSM_GFP) ||
	    copy_mc_user_highpage(folio_page(folio, 0), page, addr, vma)) {
		folio_put(folio);
		return NULL;
	}
	folio->index = linear_anon_page_index(vma, addr);
	__folio_set_swapbacked(folio);
	__folio_mark_uptodate(folio);
	__folio_set_locked(folio);
	return folio;
}

/*
 * Others map the folio too, perhaps such that never offered it: they keep it,
 * and a copy is what is merged. So merged folios are mapped by mergeable VMAs
 * only, which unmerging can find.
 */
static int promote_copy(struct ksm_mm *kmm, struct vm_area_struct *vma, unsigned long addr,
			struct page *page, u64 key, pte_t pte)
{
	struct folio *copy = copy_of(page, vma, addr);
	int err;

	if (!copy)
		return -ENOMEM;
	err = plant_node(kmm, vma, addr, copy, key);
	if (!err) {
		err = replace_page(vma, addr, page, folio_page(copy, 0), pte);
		if (err)
			drop_site(kmm, addr, copy);
		else
			folio_add_lru(copy);	/* mlocked already, by its mapping */
	}
	folio_unlock(copy);
	folio_put(copy);
	return err;
}

/* The folio is locked and small; the checksum of what it holds now decides. */
static int promote_locked(struct ksm_mm *kmm, struct vm_area_struct *vma, unsigned long addr,
			  struct page *page, u64 key, u64 *sum)
{
	struct folio *folio = page_folio(page);
	pte_t pte;
	int err;

	err = write_protect(vma, addr, folio, page, &pte);
	if (err)
		return err;
	*sum = ksm_page_checksum(page);
	if (*sum != key)
		return -ENOENT;
	if (folio_mapcount(folio) > 1)
		return promote_copy(kmm, vma, addr, page, key, pte);
	return plant_node(kmm, vma, addr, folio, key);
}

/**
 * ksm_promote - make the page of a candidate a merged folio
 * @kmm: whose candidate
 * @addr: where
 * @key: checksum that the candidate was found by
 * @pfn: of the page that wants a partner: itself is none, nothing would be saved
 *
 * A candidate that has changed is one no longer: its record says so then.
 *
 * Context: the mmap_lock and @kmm locked; waits for no folio.
 * Return: 0; -ENOENT when there is no such candidate any more; -EAGAIN when
 * its folio is in use otherwise; -ENOMEM.
 */
int ksm_promote(struct ksm_mm *kmm, unsigned long addr, u64 key, unsigned long pfn)
{
	struct vm_area_struct *vma = ksm_vma_lookup(kmm->slot.mm, addr);
	struct ksm_record rec;
	struct folio *folio;
	struct page *page;
	int err = -ENOENT;
	u64 sum = key;

	if (!vma || !ksm_track_find(&kmm->track, addr, &rec))
		return err;
	if (ksm_record_state(rec) != KSM_CANDIDATE ||
	    ksm_record_word(rec).candidate->node.key != key)
		return err;
	page = ksm_get_page(vma, addr);
	if (!page)
		return err;
	if (page_to_pfn(page) == pfn)
		goto put;

	/* A huge page is not split for a candidate that has changed. */
	if (PageCompound(page))
		sum = ksm_page_checksum(page);
	if (sum == key) {
		folio = lock_small_folio(page);
		err = PTR_ERR_OR_ZERO(folio);
		if (!err) {
			err = promote_locked(kmm, vma, addr, page, key, &sum);
			folio_unlock(page_folio(page));
		}
	}
	if (sum != key) {
		ksm_forget_record(kmm, rec, false);
		ksm_track_set(&kmm->track, rec, KSM_HASHED, (union ksm_word){ .sum = sum });
	}
put:
	put_page(page);
	return err;
}
