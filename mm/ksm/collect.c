// SPDX-License-Identifier: GPL-2.0-only
/*
 * Collecting: one walk of an mm's page tables finds the pages of a batch.
 *
 * No more than one page table lock is held at a time, and nothing is done
 * under it but to look, and to take references on pages that must be hashed.
 */
#include <linux/leafops.h>
#include <linux/pagewalk.h>

#include "batch.h"
#include "../swap.h"

static bool batch_is_full(const struct ksm_batch *batch)
{
	return batch->considered >= batch->max || batch->nr_items >= KSM_BATCH_PAGES;
}

static void add_item(struct ksm_batch *batch, unsigned long addr, struct page *page,
		     enum ksm_sight sight)
{
	batch->items[batch->nr_items++] = (struct ksm_item){
		.addr = addr,
		.page = page,
		.pfn = page ? page_to_pfn(page) : 0,
		.sight = sight,
	};
}

/*
 * Nothing is mapped from batch->next to @last: whatever the records know of it
 * is past. Records of merged folios that are locked stay for the next pass.
 * Returns whether the batch came to the end of it.
 */
static bool forget_gap(struct ksm_batch *batch, unsigned long last)
{
	struct ksm_track *track = &batch->kmm->track;
	unsigned long start = batch->next, addr = start;
	struct ksm_record rec;

	while (ksm_track_next(track, &addr, last, &rec)) {
		if (batch->forgotten++ >= KSM_BATCH_FORGET) {
			batch->next = addr;
			if (addr > start)
				ksm_track_trim(track, start, addr - 1);
			return false;
		}
		ksm_forget_record(batch->kmm, rec, false);
		if (last - addr < PAGE_SIZE)
			break;
		addr += PAGE_SIZE;
	}
	ksm_track_trim(track, start, last);
	batch->next = last + 1;
	return true;
}

static struct ksm_record record_at(const struct ksm_batch *batch, unsigned long addr)
{
	return (struct ksm_record){
		.block = batch->block,
		.slot = (addr >> PAGE_SHIFT) & (KSM_BLOCK_PAGES - 1),
	};
}

/* Pages in a per-CPU list of the LRU look held, too; the next pass sees them. */
static bool folio_is_busy(struct folio *folio)
{
	if (folio_maybe_dma_pinned(folio))
		return true;
	return !folio_test_large(folio) &&
	       folio_ref_count(folio) > folio_mapcount(folio) + folio_test_swapcache(folio);
}

static void see_nothing(struct ksm_batch *batch, unsigned long addr)
{
	if (batch->block && ksm_record_state(record_at(batch, addr)) != KSM_UNSEEN)
		add_item(batch, addr, NULL, KSM_SIGHT_GONE);
}

/*
 * Whether a site's folio may come back to where this entry is: out of the swap
 * cache, or from a migration. Nobody else's lock is waited for.
 */
static bool may_return(const struct ksm_site *site, softleaf_t entry)
{
	struct folio *folio = ksm_stable_lock_folio(site->stable, false);
	bool same;

	if (IS_ERR_OR_NULL(folio))
		return folio;
	same = softleaf_is_migration(entry) ||
	       (softleaf_is_swap(entry) && folio_matches_swap_entry(folio, entry));
	folio_unlock(folio);
	folio_put(folio);
	return same;
}

static void see_absent(struct ksm_batch *batch, unsigned long addr, softleaf_t entry)
{
	struct ksm_record rec;

	if (!batch->block)
		return;
	rec = record_at(batch, addr);
	if (ksm_record_state(rec) == KSM_MERGED && may_return(ksm_record_word(rec).site, entry))
		return;
	see_nothing(batch, addr);
}

static bool candidate_rests(const struct ksm_batch *batch, unsigned long addr)
{
	struct ksm_record rec;

	if (!batch->block || !READ_ONCE(ksm_smart_scan))
		return false;
	rec = record_at(batch, addr);
	return ksm_record_state(rec) == KSM_CANDIDATE &&
	       ksm_candidate_rests(ksm_record_word(rec).candidate, batch->pass);
}

/* Called with the page table lock held, which keeps the mapped page in being. */
static void see_page(struct ksm_batch *batch, unsigned long addr, struct page *page)
{
	struct folio *folio = page_folio(page);

	/* One that failed stays mapped, and its sites lead to those who map it. */
	if (folio_test_ksm(folio) && PageHWPoison(page))
		return;
	if (!folio_test_anon(folio) || folio_is_zone_device(folio) || PageHWPoison(page)) {
		see_nothing(batch, addr);
		return;
	}
	batch->considered++;
	if (folio_test_ksm(folio)) {
		if (batch->block) {
			struct ksm_record rec = record_at(batch, addr);

			if (ksm_record_state(rec) == KSM_MERGED &&
			    ksm_stable_owns(ksm_record_word(rec).site->stable, folio))
				return;
		}
		add_item(batch, addr, NULL, KSM_SIGHT_MERGED);
		return;
	}
	if (candidate_rests(batch, addr)) {
		batch->skipped++;
		return;
	}
	add_item(batch, addr, page, folio_is_busy(folio) ? KSM_SIGHT_BUSY : KSM_SIGHT_PAGE);
	folio_get(folio);
}

static void enter_block(struct ksm_batch *batch, unsigned long addr)
{
	batch->block = ksm_track_block(&batch->kmm->track, addr);
}

static void see_pte(struct ksm_batch *batch, struct vm_area_struct *vma, unsigned long addr,
		    pte_t pte)
{
	struct page *page;

	if (pte_none(pte)) {
		see_nothing(batch, addr);
	} else if (!pte_present(pte)) {
		see_absent(batch, addr, softleaf_from_pte(pte));
	} else {
		page = vm_normal_page(vma, addr, pte);
		if (page)
			see_page(batch, addr, page);
		else
			see_nothing(batch, addr);
	}
}

/* Returns where it stopped. */
static unsigned long walk_ptes(struct ksm_batch *batch, struct vm_area_struct *vma, pte_t *ptep,
			       unsigned long addr, unsigned long end)
{
	enter_block(batch, addr);
	for (; addr < end && !batch_is_full(batch); addr += PAGE_SIZE, ptep++) {
		if (IS_ALIGNED(addr, KSM_BLOCK_SIZE))
			enter_block(batch, addr);
		see_pte(batch, vma, addr, ptep_get(ptep));
	}
	return addr;
}

static unsigned long walk_huge(struct ksm_batch *batch, struct vm_area_struct *vma, pmd_t pmd,
			       unsigned long addr, unsigned long end)
{
	struct page *page = pmd_present(pmd) ? vm_normal_page_pmd(vma, addr, pmd) : NULL;

	/* Migrating, or the huge zero page: as it was until the next pass. */
	if (!page)
		return end;
	page += (addr & ~PMD_MASK) >> PAGE_SHIFT;
	enter_block(batch, addr);
	for (; addr < end && !batch_is_full(batch); addr += PAGE_SIZE, page++) {
		if (IS_ALIGNED(addr, KSM_BLOCK_SIZE))
			enter_block(batch, addr);
		see_page(batch, addr, page);
	}
	return addr;
}

static int walk_pmd(pmd_t *pmd, unsigned long addr, unsigned long end, struct mm_walk *walk)
{
	struct ksm_batch *batch = walk->private;
	spinlock_t *ptl;
	pte_t *ptep;

	ptl = pmd_trans_huge_lock(pmd, walk->vma);
	if (ptl) {
		batch->next = walk_huge(batch, walk->vma, *pmd, addr, end);
		spin_unlock(ptl);
	} else {
		ptep = pte_offset_map_lock(walk->mm, pmd, addr, &ptl);
		if (!ptep) {
			walk->action = ACTION_AGAIN;
			return 0;
		}
		batch->next = walk_ptes(batch, walk->vma, ptep, addr, end);
		pte_unmap_unlock(ptep, ptl);
	}
	return batch_is_full(batch) || ++batch->tables >= KSM_BATCH_TABLES;
}

/* No page table. */
static int walk_hole(unsigned long addr, unsigned long end, int depth, struct mm_walk *walk)
{
	return !forget_gap(walk->private, end - 1);
}

static const struct mm_walk_ops collect_ops = {
	.pmd_entry = walk_pmd,
	.pte_hole = walk_hole,
	.walk_lock = PGWALK_RDLOCK,
};

/**
 * ksm_collect - walk the page tables from batch->next on
 * @batch: gets items, until it is full or the mm ends
 *
 * Context: the mmap_lock and the mm locked.
 */
void ksm_collect(struct ksm_batch *batch)
{
	struct ksm_mm *kmm = batch->kmm;
	struct vm_area_struct *vma;
	VMA_ITERATOR(vmi, kmm->slot.mm, batch->next);

	for_each_vma(vmi, vma) {
		unsigned long start = max(vma->vm_start, batch->next);

		if (!ksm_vma_mergeable(vma))
			continue;
		if (batch->next < start && !forget_gap(batch, start - 1)) {
			batch->full = true;
			return;
		}
		batch->full = walk_page_range_vma(vma, start, vma->vm_end, &collect_ops, batch);
		if (batch->full)
			return;
		batch->next = vma->vm_end;
	}
	batch->full = !forget_gap(batch, ULONG_MAX);
}
