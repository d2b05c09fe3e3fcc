// SPDX-License-Identifier: GPL-2.0-only
/*
 * Merging: who is merged with whom, and what is noted of it.
 *
 * Nothing but equality of all bytes merges pages, and it is judged while
 * neither page can change; see ksm_exchange_page(). What can fail is done before,
 * so that a mapping never lacks the site by which it is found.
 */
#include <linux/cacheinfo.h>
#include <linux/highmem.h>
#include <linux/memcontrol.h>
#include <linux/mm_inline.h>
#include <linux/rmap.h>
#include <linux/swap.h>
#include <trace/events/ksm.h>

#include "ksm.h"
#include "work.h"

/* The record gives up what it has and owns the site from now on. */
static int record_site(struct ksm_mm *kmm, unsigned long addr, struct ksm_site *site,
		       const struct folio *folio)
{
	union ksm_word word = { .site = site };
	struct ksm_record rec;
	int err = ksm_track_get(&kmm->track, addr, KSM_GFP, &rec);

	if (err)
		return err;
	site->since = (u32)jiffies;
	if (!ksm_replace_record(kmm, addr, rec, KSM_MERGED, word))
		return -EAGAIN;
	ksm_record_set_tag(rec, folio_pfn(folio));
	return 0;
}

/* Undoes that, with the site attached to a node of a folio that is locked. */
static void drop_site(struct ksm_mm *kmm, unsigned long addr, struct folio *kfolio)
{
	struct ksm_record rec;
	struct ksm_site *site;
	unsigned int level;

	if (WARN_ON_ONCE(!ksm_track_find(&kmm->track, addr, &rec)))
		return;
	site = ksm_record_word(rec).site;
	level = ksm_record_level(rec);
	ksm_track_set(&kmm->track, rec, KSM_UNSEEN, (union ksm_word){});
	/* The page is still there, and its record about to be used again. */
	ksm_record_set_level(rec, level);
	ksm_site_drop(site, kfolio);
}

/* A page that was used a lot goes: whoever used it will use the merged folio. */
static void hand_over_use(struct folio *kfolio, const struct folio *folio)
{
	if (folio_test_active(folio))
		folio_mark_accessed(kfolio);
	if (folio_test_workingset(folio) && !folio_test_workingset(kfolio))
		folio_set_workingset(kfolio);
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
	int err;

	if (!stable)
		return -ENOENT;
	if (ksm_stable_full(stable) || !ksm_nodes_match(page_to_nid(page), folio_nid(kfolio)))
		return -ENOSPC;
	/*
	 * Reclaim may drop what one owner gave up by MADV_FREE: not for others. It may stay
	 * so for good: they must find another.
	 */
	if (folio_test_lazyfree(kfolio) || folio_test_hwpoison(kfolio))
		return -ENOSPC;
	if (PageCompound(page) && !ksm_pages_equal(page, kpage))
		return -ENOENT;
	folio = ksm_lock_small_folio(page);
	if (IS_ERR(folio))
		return PTR_ERR(folio);

	site = ksm_site_add(stable, vma, addr, false);
	err = PTR_ERR_OR_ZERO(site);
	if (err)
		goto unlock;
	err = record_site(kmm, addr, site, kfolio);
	if (err) {
		ksm_site_drop(site, kfolio);
		goto unlock;
	}
	/* MADV_FREE by its only owner may have cleaned it and be half way. */
	folio_mark_dirty(kfolio);
	ksm_point_sleep(KSM_POINT_ATTACHED);
	err = ksm_exchange_page(vma, addr, page, kpage);
	if (err)
		drop_site(kmm, addr, kfolio);
	else
		hand_over_use(kfolio, folio);
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
 * the folio is in use otherwise; -EMLINK when others keep it; -ENOSPC when the folio
 * is full, on another NUMA node, or about to be dropped; -ENOMEM.
 */
int ksm_merge(struct ksm_mm *kmm, struct vm_area_struct *vma, unsigned long addr,
	      struct folio *kfolio)
{
	struct page *page = ksm_get_page(vma, addr);
	unsigned long pfn;
	int err = -EAGAIN;

	if (!page)
		return -ENOENT;
	pfn = page_to_pfn(page);
	if (page_folio(page) == kfolio) {
		err = ksm_adopt(kmm, vma, addr, kfolio);
	} else if (!ksm_point_fails(KSM_POINT_LOCK_FOLIO) && folio_trylock(kfolio)) {
		err = merge_locked(kmm, vma, addr, page, kfolio);
		folio_unlock(kfolio);
	}
	if (err)
		put_page(page);
	else
		ksm_put_replaced(page);
	trace_ksm_merge_with_ksm_page(folio_page(kfolio, 0), pfn, (void *)addr, vma->vm_mm, err);
	return err;
}

static int inherit_site(struct ksm_mm *kmm, struct vm_area_struct *vma, unsigned long addr,
			struct ksm_stable *stable, const struct folio *kfolio)
{
	struct ksm_site *site = ksm_site_inherit(stable, vma, addr);
	int err;

	if (!site)
		return -ENOENT;
	err = record_site(kmm, addr, site, kfolio);
	if (err)
		ksm_site_bequeath(site);
	return err;
}

static int add_site(struct ksm_mm *kmm, struct vm_area_struct *vma, unsigned long addr,
		    struct ksm_stable *stable, struct folio *kfolio)
{
	struct ksm_site *site;
	int err;

	site = ksm_site_add(stable, vma, addr, true);
	if (IS_ERR(site))
		return PTR_ERR(site);
	err = record_site(kmm, addr, site, kfolio);
	if (err)
		ksm_site_drop(site, kfolio);
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
 * Return: 0; -EAGAIN; -ENOMEM; -ENOSPC when the folio is full; -ENOENT for a
 * folio that is no merged one.
 */
int ksm_adopt(struct ksm_mm *kmm, struct vm_area_struct *vma, unsigned long addr,
	      struct folio *kfolio)
{
	struct ksm_stable *stable;
	int err = -ENOENT;

	if (ksm_point_fails(KSM_POINT_LOCK_FOLIO) || !folio_trylock(kfolio))
		return -EAGAIN;
	stable = folio_test_ksm(kfolio) ? ksm_folio_stable(kfolio) : NULL;
	if (stable) {
		err = inherit_site(kmm, vma, addr, stable, kfolio);
		if (err == -ENOENT)
			err = add_site(kmm, vma, addr, stable, kfolio);
	}
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
	site = ksm_site_alloc(vma->anon_vma, linear_anon_page_index(vma, addr));
	if (!site)
		goto free;
	err = record_site(kmm, addr, site, folio);
	if (err)
		goto free_site;
	/* Only swap may have the contents else, and the PTEs will be clean. */
	folio_mark_dirty(folio);
	ksm_stable_plant(stable, folio, key);
	ksm_site_attach(stable, site);
	return 0;
free_site:
	ksm_site_free(site);
free:
	ksm_stable_free(stable);
	return err;
}

/* A folio for a copy of @page, charged. */
static struct folio *alloc_copy(struct page *page, struct vm_area_struct *vma)
{
	gfp_t gfp = KSM_GFP | __GFP_HIGHMEM | __GFP_MOVABLE;
	struct folio *folio;

	if (!READ_ONCE(ksm_merge_across_nodes))
		gfp |= __GFP_THISNODE;
	folio = __folio_alloc_node(gfp, 0, page_to_nid(page));
	if (!folio)
		return ERR_PTR(-ENOMEM);
	if (mem_cgroup_charge(folio, vma->vm_mm, KSM_GFP)) {
		folio_put(folio);
		return ERR_PTR(-EDQUOT);
	}
	return folio;
}

/* Makes that an anonymous folio with the contents of @page, locked. */
static int fill_copy(struct folio *copy, struct page *page, struct vm_area_struct *vma,
		     unsigned long addr)
{
	/* Memory failure is about to take the page away. */
	if (copy_mc_user_highpage(folio_page(copy, 0), page, addr, vma))
		return -EAGAIN;
	/* Others are going to map it at addresses of other colours. */
	if (cpu_dcache_is_aliasing())
		flush_dcache_folio(copy);
	copy->index = linear_anon_page_index(vma, addr);
	__folio_set_swapbacked(copy);
	__folio_mark_uptodate(copy);
	__folio_set_locked(copy);
	return 0;
}

/* To reclaim the copy is what the original was. It is on no LRU list yet. */
static void copy_use(struct folio *copy, const struct folio *folio)
{
	if (folio_test_active(folio))
		folio_set_active(copy);
	if (folio_test_workingset(folio))
		folio_set_workingset(copy);
	if (folio_test_referenced(folio))
		folio_set_referenced(copy);
	folio_migrate_refs(copy, folio);
}

/*
 * Others map the folio too, perhaps such that never offered it: they keep it,
 * and a copy is what is merged. So merged folios are mapped by mergeable VMAs
 * only, which unmerging can find. What one owner gave up by MADV_FREE, and uses
 * again, reclaim may drop as soon as it is clean: not a copy, either.
 */
static int promote_copy(struct ksm_mm *kmm, struct vm_area_struct *vma, unsigned long addr,
			struct page *page, struct folio *copy, u64 key)
{
	int err = fill_copy(copy, page, vma, addr);

	if (err)
		return err;
	err = plant_node(kmm, vma, addr, copy, key);
	if (!err) {
		err = ksm_exchange_page(vma, addr, page, folio_page(copy, 0));
		if (err) {
			drop_site(kmm, addr, copy);
		} else {
			copy_use(copy, page_folio(page));
			folio_add_lru(copy);	/* mlocked already, by its mapping */
			folio_mark_accessed(copy);
		}
	}
	folio_unlock(copy);
	return err;
}

static u64 page_key_now(struct page *page)
{
	ksm_work_add(KSM_WORK_HASHED, 1);
	return ksm_page_key(page, NULL);
}

/* Once it cannot change any more its key decides. @copy is NULL where none is needed. */
static int promote_protected(struct ksm_mm *kmm, struct vm_area_struct *vma, unsigned long addr,
			     struct page *page, struct folio *copy, u64 key, u64 *now)
{
	struct folio *folio = page_folio(page);
	bool shared;
	int err;

	err = ksm_write_protect(vma, addr, folio, page, &shared);
	if (err)
		return err;
	ksm_point_sleep(KSM_POINT_PROTECTED);
	*now = page_key_now(page);
	if (*now != key)
		return -ENOENT;
	if (folio_test_lazyfree(folio) && !folio_test_dirty(folio))
		return -EAGAIN;
	if (shared || folio_test_lazyfree(folio))
		return copy ? promote_copy(kmm, vma, addr, page, copy, key) : -EAGAIN;
	err = plant_node(kmm, vma, addr, folio, key);
	/* Several are going to use it. */
	if (!err)
		folio_mark_accessed(folio);
	return err;
}

/*
 * The folio is locked and small. A partner that nobody shares can become the merged folio
 * without a copy. If there is no memory for one the page was not write-protected in vain.
 */
static int promote_locked(struct ksm_mm *kmm, struct vm_area_struct *vma, unsigned long addr,
			  struct page *page, bool partner_shared, u64 key, u64 *now)
{
	struct folio *folio = page_folio(page), *copy = NULL;
	bool shared = folio_mapcount(folio) > 1;
	int err;

	if (shared && !partner_shared)
		return -EBUSY;
	if (shared || folio_test_lazyfree(folio)) {
		copy = alloc_copy(page, vma);
		if (IS_ERR(copy))
			return PTR_ERR(copy);
	}
	err = promote_protected(kmm, vma, addr, page, copy, key, now);
	if (copy)
		folio_put(copy);
	return err;
}

/**
 * ksm_is_kept - whether merging the page at an address would save nothing
 * @vma: mergeable
 * @addr: page aligned, inside @vma
 *
 * Context: the mmap_lock held; waits for no folio.
 * Return: true if others keep it, see ksm_page_is_kept(); false if that cannot be told.
 */
bool ksm_is_kept(struct vm_area_struct *vma, unsigned long addr)
{
	struct page *page = ksm_get_page(vma, addr);
	struct folio *folio;
	bool kept = false;

	if (!page)
		return false;
	folio = page_folio(page);
	if (folio_trylock(folio)) {
		/* Splitting may have made another folio of it. */
		kept = page_folio(page) == folio && !folio_test_ksm(folio) &&
		       ksm_page_is_kept(folio, page);
		folio_unlock(folio);
	}
	put_page(page);
	return kept;
}

/*
 * The page is no candidate any more. If its partner is to be one instead it rests, until that
 * is found. If nothing can be gained for now it waits, as if it had changed.
 */
static void step_back(struct ksm_mm *kmm, struct vm_area_struct *vma, unsigned long addr,
		      struct ksm_record rec, u64 now, int err)
{
	unsigned int level = ksm_record_level(rec);
	union ksm_word word = { .key = now };
	enum ksm_state state = KSM_HASHED;

	if (err == -EBUSY) {
		ksm_unstable_settle(kmm, rec);
		return;
	}
	if (err == -EDQUOT || err == -EMLINK) {
		level = ksm_backoff_changed(KSM_CLEANED, level);
		if (ksm_dirty_bit_tells(vma)) {
			state = KSM_CLEANED;
			word.since = jiffies;
		}
	}
	ksm_replace_record(kmm, addr, rec, state, word);
	ksm_record_set_level(rec, level);
}

/**
 * ksm_promote - make the page of a candidate a merged folio
 * @kmm: whose candidate
 * @addr: where
 * @key: that the candidate was found by
 * @pfn: of the page that wants a partner: itself is none, nothing would be saved
 * @shared: others map that page, too
 *
 * A candidate that has changed, is in use otherwise, or would gain nothing, is one no
 * longer: its record says so then.
 *
 * Context: the mmap_lock and @kmm locked; waits for no folio.
 * Return: 0; -ENOENT when there is no such candidate any more; -EBUSY when the page is to
 * wait for it, and not it for the page; -EDQUOT when there is no room for a copy; -ENOMEM.
 */
int ksm_promote(struct ksm_mm *kmm, unsigned long addr, u64 key, unsigned long pfn, bool shared)
{
	struct vm_area_struct *vma = ksm_vma_lookup(kmm->slot.mm, addr);
	struct ksm_record rec;
	struct folio *folio;
	struct page *page;
	unsigned long mine;
	int err = -ENOENT;
	u64 now = key;

	if (!vma || !ksm_track_find(&kmm->track, addr, &rec))
		return err;
	if (ksm_record_state(rec) != KSM_CANDIDATE ||
	    ksm_record_word(rec).candidate->node.key != key)
		return err;
	page = ksm_get_page(vma, addr);
	if (!page) {
		ksm_forget_record(kmm, addr, rec, false);
		return err;
	}
	mine = page_to_pfn(page);
	if (mine == pfn)
		goto put;

	/* A huge page is not split for a candidate that has changed. */
	if (PageCompound(page))
		now = page_key_now(page);
	if (now == key) {
		folio = ksm_lock_small_folio(page);
		err = PTR_ERR_OR_ZERO(folio);
		if (!err) {
			err = promote_locked(kmm, vma, addr, page, shared, key, &now);
			if (!err)
				ksm_fate_merged(&kmm->fate);
			folio_unlock(page_folio(page));
		}
	}
	/* Who cannot be merged now must not keep others apart. */
	if (now != key || (err && err != -ENOMEM))
		step_back(kmm, vma, addr, rec, now, now == key ? err : -EAGAIN);
	if (now != key || err == -EAGAIN || err == -EMLINK)
		err = -ENOENT;
put:
	put_page(page);
	trace_ksm_merge_one_page(mine, (void *)addr, kmm->slot.mm, err);
	return err;
}
