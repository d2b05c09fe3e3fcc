// SPDX-License-Identifier: GPL-2.0-only
/*
 * Changes of page tables: write-protect a page, map another one in its place.
 */
#include <linux/cacheinfo.h>
#include <linux/folio_batch.h>
#include <linux/highmem.h>
#include <linux/ksm.h>
#include <linux/mmu_notifier.h>
#include <linux/pagewalk.h>
#include <linux/rmap.h>
#include <linux/swap.h>
#include <linux/userfaultfd_k.h>
#include <asm/tlbflush.h>

#include "ksm.h"
#include "work.h"

/* VMAs of a family that are looked at before one of its pages is merged. */
#define KSM_KEEPERS	64

/**
 * ksm_pages_equal - compare all bytes of two pages
 * @a: one, on which the caller holds a reference
 * @b: the other, likewise
 *
 * Context: any; if either may change meanwhile the result is a hint.
 * Return: true if all are equal.
 */
bool ksm_pages_equal(struct page *a, struct page *b)
{
	ksm_work_add(KSM_WORK_COMPARED, 1);
	return pages_identical(a, b);
}

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

/**
 * ksm_vma_maps - whether a VMA maps a page at an address
 * @vma: the VMA
 * @addr: where, or -EFAULT for nowhere
 * @page: the page, of a folio that may be large
 *
 * Context: the folio locked, so that no migration hides it, or only a hint is needed; the
 * anon_vma locked, which keeps @vma in being. Takes the page table lock.
 * Return: true if it does.
 */
bool ksm_vma_maps(struct vm_area_struct *vma, unsigned long addr, const struct page *page)
{
	struct page_vma_mapped_walk pvmw = {
		.pfn = page_to_pfn(page),
		.nr_pages = 1,
		.vma = vma,
		.address = addr,
		.flags = PVMW_SYNC,
	};

	if (addr == -EFAULT || !page_vma_mapped_walk(&pvmw))
		return false;
	page_vma_mapped_walk_done(&pvmw);
	return true;
}

/**
 * ksm_flush_aliases - see what a process has written to a page
 * @kmm: whose page
 * @addr: of the page
 * @page: with a reference
 *
 * Caches of some CPUs have lines of one page under several addresses.
 *
 * Context: mmap_lock held.
 */
void ksm_flush_aliases(struct ksm_mm *kmm, unsigned long addr, struct page *page)
{
	struct vm_area_struct *vma;

	if (!cpu_dcache_is_aliasing())
		return;
	vma = ksm_vma_lookup(kmm->slot.mm, addr);
	if (vma)
		flush_anon_page(vma, page, addr);
	flush_dcache_page(page);
}

/*
 * References of page tables, of the swap cache and of the caller. A fork or an exit of
 * others, between two looks, must not hide a reference that is none of these.
 */
static bool refs_accounted_for(const struct folio *folio)
{
	int mapped = folio_mapcount(folio), refs;

	smp_rmb();	/* a fork takes its reference before it maps the page ... */
	refs = folio_ref_count(folio);
	smp_rmb();	/* ... and who unmaps it drops that after */
	return refs == mapped + folio_test_swapcache(folio) + 1 && mapped == folio_mapcount(folio);
}

/*
 * Takes the PTE away, and with it every way of writing to the page; called with
 * its lock held.
 *
 * Who has a writable or exclusive mapping may pin the page for writing without
 * a fault. So the PTE goes first and TLBs are flushed, which ends GUP-fast and
 * plain stores alike; then references are counted, which finds those that were
 * faster; then the page stops being exclusive, which fails on pins. Only when
 * all that holds the page cannot change any more, and *@pte is the entry that
 * may come back, read-only. If not, the PTE is as it was.
 */
static int take_pte(struct vm_area_struct *vma, unsigned long addr, pte_t *ptep,
		    struct page *page, pte_t *pte)
{
	struct folio *folio = page_folio(page);
	bool exclusive = PageAnonExclusive(page);

	/* A device may have made it its own since it was found. */
	if (!pte_present(ptep_get(ptep)))
		return -EAGAIN;
	/* Protection that traps reads too would be lost with the old PTE. */
	if (userfaultfd_rwp(vma) && pte_uffd(ptep_get(ptep)))
		return -EAGAIN;
	flush_cache_page(vma, addr, page_to_pfn(page));
	*pte = ptep_clear_flush(vma, addr, ptep);
	ksm_point_spin(KSM_POINT_PTE_TAKEN);
	if (cpu_dcache_is_aliasing())
		flush_dcache_page(page);
	if (!refs_accounted_for(folio) ||
	    (exclusive && folio_try_share_anon_rmap_pte(folio, page))) {
		set_pte_at(vma->vm_mm, addr, ptep, *pte);
		return -EAGAIN;
	}
	if (pte_dirty(*pte))
		folio_mark_dirty(folio);
	*pte = pte_wrprotect(*pte);
	return 0;
}

/**
 * ksm_write_protect - take away every way of writing to the page at an address
 * @vma: the VMA
 * @addr: page aligned, inside @vma
 * @folio: small; what should be mapped there
 * @page: its page
 * @shared: result: others map the folio, too
 *
 * Other mappings of the folio are read-only already, or the page would be
 * exclusive to this one. If there are none there will be none as long as the locks
 * are held, but this one may go: others could come by fork or swap-in only.
 *
 * Context: mmap_lock held, @folio locked, one reference held; may sleep.
 * Return: 0; -EAGAIN when the page is not there, or held by others.
 */
int ksm_write_protect(struct vm_area_struct *vma, unsigned long addr, struct folio *folio,
		      struct page *page, bool *shared)
{
	DEFINE_FOLIO_VMA_WALK(pvmw, folio, vma, addr, 0);
	struct mmu_notifier_range range;
	int err = -EAGAIN;
	pte_t pte;

	mmu_notifier_range_init(&range, MMU_NOTIFY_CLEAR, 0, vma->vm_mm, addr, addr + PAGE_SIZE);
	mmu_notifier_invalidate_range_start(&range);
	if (page_vma_mapped_walk(&pvmw)) {
		if (!WARN_ON_ONCE(!pvmw.pte))
			err = take_pte(vma, addr, pvmw.pte, page, &pte);
		*shared = folio_mapcount(folio) > 1;
		/* Of a page given up by MADV_FREE the bit alone tells that it is in use again. */
		if (!err && !folio_test_lazyfree(folio))
			pte = pte_mkclean(pte);
		if (!err)
			set_pte_at(vma->vm_mm, addr, pvmw.pte, pte);
		page_vma_mapped_walk_done(&pvmw);
	}
	mmu_notifier_invalidate_range_end(&range);
	return err;
}

/* The old PTE's marks for userfaultfd and soft-dirty tracking live on. */
static pte_t keep_marks(pte_t pte, pte_t old)
{
	if (pte_uffd(old))
		pte = pte_mkuffd(pte);
	return pte_soft_dirty(old) ? pte_mksoft_dirty(pte) : pte_clear_soft_dirty(pte);
}

/* The dirty bit says that it was us; see is_ksm_zero_pte(). */
static pte_t zero_pte(struct vm_area_struct *vma, unsigned long addr)
{
	pte_t pte = pfn_pte(zero_pfn(addr), vma->vm_page_prot);

	return pte_mkdirty(pte_mkspecial(pte_wrprotect(pte)));
}

/* The zero page belongs to nobody, and is no anonymous memory any more. */
static void map_zero(struct mm_struct *mm)
{
	dec_mm_counter(mm, MM_ANONPAGES);
	atomic_long_inc(&mm->ksm_zero_pages);
	atomic_long_inc(&ksm_zero_pages);
}

static void map_merged(struct vm_area_struct *vma, unsigned long addr, struct page *kpage)
{
	struct folio *kfolio = page_folio(kpage);

	VM_WARN_ON_ONCE_FOLIO(PageAnonExclusive(kpage), kfolio);
	folio_get(kfolio);
	folio_add_anon_rmap_pte(kfolio, kpage, vma, addr, RMAP_NONE);
}

static void map_instead(struct vm_area_struct *vma, unsigned long addr, pte_t *ptep,
			struct page *page, struct page *kpage, pte_t old)
{
	struct folio *folio = page_folio(page);
	pte_t pte;

	if (is_zero_pfn(page_to_pfn(kpage))) {
		map_zero(vma->vm_mm);
		pte = zero_pte(vma, addr);
	} else {
		map_merged(vma, addr, kpage);
		pte = pte_wrprotect(mk_pte(kpage, vma->vm_page_prot));
	}
	set_pte_at(vma->vm_mm, addr, ptep, keep_marks(pte, old));

	folio_remove_rmap_pte(folio, page, vma);
	if (!folio_mapped(folio))
		folio_free_swap(folio);
	folio_put(folio);
}

/**
 * ksm_exchange_page - map a merged page, or the zero page, in place of an equal one
 * @vma: the VMA
 * @addr: page aligned, inside @vma
 * @page: of a small folio; what should be mapped there; loses one reference
 * @kpage: what is to be; its folio locked, unless it is the zero page
 *
 * All bytes are compared while nobody can write to either page: one is
 * read-only wherever it is mapped, and the other is not mapped here, and
 * read-only elsewhere or it would be exclusive.
 *
 * Charges and counts of anonymous pages do not change between merged pages;
 * the mlock count follows the page that goes.
 *
 * Context: mmap_lock held, @page's folio locked, one reference held; may sleep.
 * Return: 0; -ENOENT when the pages differ: the old one is read-only now;
 * -EAGAIN when it is not there, or held by others.
 */
int ksm_exchange_page(struct vm_area_struct *vma, unsigned long addr, struct page *page,
		      struct page *kpage)
{
	DEFINE_FOLIO_VMA_WALK(pvmw, page_folio(page), vma, addr, 0);
	struct mmu_notifier_range range;
	int err = -EAGAIN;
	pte_t pte;

	mmu_notifier_range_init(&range, MMU_NOTIFY_CLEAR, 0, vma->vm_mm, addr, addr + PAGE_SIZE);
	mmu_notifier_invalidate_range_start(&range);
	if (page_vma_mapped_walk(&pvmw)) {
		if (!WARN_ON_ONCE(!pvmw.pte))
			err = take_pte(vma, addr, pvmw.pte, page, &pte);
		if (!err && !ksm_pages_equal(page, kpage)) {
			set_pte_at(vma->vm_mm, addr, pvmw.pte, pte);
			err = -ENOENT;
		} else if (!err) {
			map_instead(vma, addr, pvmw.pte, page, kpage, pte);
		}
		page_vma_mapped_walk_done(&pvmw);
	}
	mmu_notifier_invalidate_range_end(&range);
	return err;
}

/* Folios that were replaced; ksm_control. */
static struct folio_batch replaced;

/**
 * ksm_put_replaced - give up the last reference on a page that was replaced
 * @page: the page
 *
 * Pages are freed many at a time, which is cheaper.
 *
 * Context: ksm_control held; does not sleep.
 */
void ksm_put_replaced(struct page *page)
{
	if (!folio_batch_add(&replaced, page_folio(page)))
		folios_put(&replaced);
}

/**
 * ksm_free_replaced - free what ksm_put_replaced() keeps
 *
 * Context: ksm_control held.
 */
void ksm_free_replaced(void)
{
	if (folio_batch_count(&replaced))
		folios_put(&replaced);
}

/**
 * struct keepers - the search for a VMA that maps a page and does not take part
 * @page: of a folio that is locked
 * @pgoff: its index
 * @left: VMAs to look at still
 * @found: there is one
 */
struct keepers {
	struct page *page;
	pgoff_t pgoff;
	unsigned int left;
	bool found;
};

static bool look_for_keeper(struct folio *folio, struct vm_area_struct *vma, unsigned long addr,
			    void *arg)
{
	struct keepers *keepers = arg;

	/* Its owner may change that, which takes no lock of ours. */
	if (!data_race(vma->vm_flags & VM_MERGEABLE))
		keepers->found = ksm_vma_maps(vma, vma_anon_address(vma, keepers->pgoff, 1),
					      keepers->page);
	return !keepers->found && --keepers->left;
}

/**
 * ksm_page_is_kept - whether merging a page would save nothing
 * @folio: of the page; locked, anonymous, not merged
 * @page: the page
 *
 * A relative may map it in a VMA that does not take part, and keeps it, whatever is mapped
 * elsewhere in its place. It is all about memory: where that cannot be told, as the
 * family is just changing or is large, the answer is no.
 *
 * Context: sleeps.
 * Return: true if so.
 */
bool ksm_page_is_kept(struct folio *folio, struct page *page)
{
	struct keepers keepers = {
		.page = page,
		.pgoff = folio->index + folio_page_idx(folio, page),
		.left = KSM_KEEPERS,
	};
	struct rmap_walk_control rwc = {
		.rmap_one = look_for_keeper,
		.anon_lock = folio_lock_anon_vma_read,
		.arg = &keepers,
		.try_lock = true,
	};

	if (!folio_maybe_mapped_shared(folio))
		return false;
	rmap_walk(folio, &rwc);
	return keepers.found;
}

/**
 * ksm_lock_small_folio - lock a page's folio and make sure that it is small
 * @page: on which the caller holds a reference
 *
 * Splitting keeps the lock and the reference on @page. Never waits: the owner
 * of the lock may hold other locks.
 *
 * Context: may sleep.
 * Return: the folio; ERR_PTR(-EAGAIN); ERR_PTR(-EMLINK) when others keep it, see
 * ksm_page_is_kept().
 */
struct folio *ksm_lock_small_folio(struct page *page)
{
	struct folio *folio = page_folio(page);
	int err = -EAGAIN;

	if (ksm_point_fails(KSM_POINT_LOCK_FOLIO) || !folio_trylock(folio))
		return ERR_PTR(err);
	if (unlikely(page_folio(page) != folio || folio_test_ksm(folio)))
		goto unlock;
	if (ksm_page_is_kept(folio, page)) {
		err = -EMLINK;
		goto unlock;
	}
	if (!folio_test_large(folio))
		return folio;
	/* Whether zero pages are put, and how many at a time, is for settings to say. */
	if (split_huge_page_keep_empty(page))
		goto unlock;
	return page_folio(page);
unlock:
	folio_unlock(folio);
	return ERR_PTR(err);
}
