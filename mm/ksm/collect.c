// SPDX-License-Identifier: GPL-2.0-only
/*
 * Collecting: one walk of an mm's page tables finds the pages of a batch.
 *
 * No more than one page table lock is held at a time. Under it pages that have
 * not changed are passed over, those that have are noted, and references are
 * taken on those that must be hashed.
 */
#include <linux/hugetlb.h>
#include <linux/leafops.h>
#include <linux/mmu_notifier.h>
#include <linux/pagewalk.h>
#include <asm/tlbflush.h>

#include "batch.h"
#include "../swap.h"

static bool batch_is_full(const struct ksm_batch *batch)
{
	if (batch->work >= batch->max_work || batch->nr_items >= KSM_BATCH_PAGES)
		return true;
	/* Lets writers of the mm's layout in early. */
	return (batch->nr_items >= KSM_BATCH_HURRIED ||
		batch->work >= KSM_BATCH_HURRIED * KSM_COST_HASHED) &&
	       mmap_lock_is_contended(batch->kmm->slot.mm);
}

/* However little there is in them, many parts of an address space take long. */
static bool was_last_part(struct ksm_batch *batch)
{
	return ++batch->parts >= KSM_BATCH_PARTS;
}

static struct ksm_item *add_item(struct ksm_batch *batch, unsigned long addr, struct page *page,
				 enum ksm_found found)
{
	struct ksm_item *item = &batch->items[batch->nr_items++];

	*item = (struct ksm_item){
		.addr = addr,
		.page = page,
		.pfn = page ? page_to_pfn(page) : 0,
		.found = found,
		.dirty_bit = batch->dirty_bit,
		.refresh = ksm_refresh_due(batch, addr),
		.again = batch->again == addr,
	};
	return item;
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

	if (batch->sweeping) {
		batch->next = last + 1;
		return true;
	}

	while (ksm_track_next(track, &addr, last, &rec)) {
		if (batch->forgotten++ >= KSM_BATCH_FORGET) {
			batch->next = addr;
			if (addr > start)
				ksm_track_trim(track, start, addr - 1);
			return false;
		}
		ksm_forget_record(batch->kmm, addr, rec, false);
		if (last - addr < PAGE_SIZE)
			break;
		addr += PAGE_SIZE;
	}
	ksm_track_trim(track, start, last);
	batch->next = last + 1;
	return true;
}

static bool find_record(const struct ksm_batch *batch, unsigned long addr,
			struct ksm_record *rec)
{
	return ksm_block_find(batch->block, addr, rec);
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
	struct ksm_record rec;

	batch->work += KSM_COST_UNCHANGED;
	if (find_record(batch, addr, &rec) && ksm_record_state(rec) != KSM_UNSEEN)
		add_item(batch, addr, NULL, KSM_FOUND_GONE);
}

/*
 * Whether a site's folio may come back to where this entry is: out of the swap
 * cache, or from a migration. Nobody else's lock is waited for.
 */
static bool may_return(const struct ksm_site *site, softleaf_t entry)
{
	struct folio *folio = ksm_stable_lock_folio(site->stable, false);
	bool same;

	if (!folio)
		return false;
	if (IS_ERR(folio))
		return true;
	same = softleaf_is_migration(entry) ||
	       (softleaf_is_swap(entry) && folio_matches_swap_entry(folio, entry));
	folio_unlock(folio);
	folio_put(folio);
	return same;
}

static void see_absent(struct ksm_batch *batch, unsigned long addr, softleaf_t entry)
{
	struct ksm_record rec;

	batch->work += KSM_COST_UNCHANGED;
	if (!find_record(batch, addr, &rec))
		return;
	if (ksm_record_state(rec) == KSM_MERGED && may_return(ksm_record_word(rec).site, entry))
		return;
	see_nothing(batch, addr);
}

/*
 * The record notes that its page changes, and which it is. A site cannot be
 * given up under a page table lock.
 */
static void note_change(struct ksm_batch *batch, unsigned long addr, struct page *page)
{
	struct ksm_record rec;

	batch->considered++;
	batch->work += KSM_COST_CHANGED;
	if (ksm_track_get(&batch->kmm->track, addr, KSM_GFP, &rec))
		return;
	batch->block = rec.block;
	switch (ksm_record_state(rec)) {
	case KSM_MERGED:
		if (batch->nr_items < KSM_BATCH_PAGES)
			add_item(batch, addr, NULL, KSM_FOUND_CHANGED)->pfn = page_to_pfn(page);
		return;
	case KSM_CANDIDATE:
		ksm_unstable_del(ksm_record_word(rec).candidate);
		break;
	default:
		break;
	}
	ksm_track_set(&batch->kmm->track, rec, KSM_CLEANED, (union ksm_word){});
	ksm_record_set_tag(rec, page_to_pfn(page));
}

/*
 * After a pass: a settled page may be equal to a candidate that came behind it.
 * Others are left as they are, for a pass has not gone by since they were seen.
 */
static void sweep_page(struct ksm_batch *batch, unsigned long addr, unsigned long pfn, bool dirty)
{
	struct ksm_record rec;
	struct folio *folio;

	batch->work += KSM_COST_UNCHANGED;
	if (!find_record(batch, addr, &rec) || ksm_record_state(rec) != KSM_SETTLED ||
	    !ksm_sight_wanted(ksm_record_word(rec).key))
		return;
	if (batch->dirty_bit && (dirty || (!batch->secondary && !ksm_record_has_tag(rec, pfn))))
		return;
	folio = pfn_folio(pfn);
	if (!folio_test_anon(folio) || folio_test_ksm(folio) || folio_is_busy(folio))
		return;
	if (folio_is_zone_device(folio) || PageHWPoison(pfn_to_page(pfn)))
		return;
	batch->work += KSM_COST_HASHED;
	/* Since the last visit it may have been touched; that is not asked now. */
	add_item(batch, addr, pfn_to_page(pfn), KSM_FOUND_PAGE)->touched = batch->secondary;
	folio_get(folio);
}

static void sweep_pte(struct ksm_batch *batch, unsigned long addr, pte_t pte)
{
	if (pte_present(pte))
		sweep_page(batch, addr, pte_pfn(pte), pte_dirty(pte));
}

/* Whether the record vouches for the page: who was to tell of a change told of none. */
static bool known_unchanged(const struct ksm_batch *batch, unsigned long addr, struct page *page)
{
	struct ksm_record rec;

	if (!find_record(batch, addr, &rec) || !ksm_record_has_tag(rec, page_to_pfn(page)))
		return false;
	switch (ksm_record_state(rec)) {
	case KSM_HASHED:
	case KSM_CLEANED:
	case KSM_SETTLED:
	case KSM_CANDIDATE:
		return true;
	default:
		return false;
	}
}

static void see_merged(struct ksm_batch *batch, unsigned long addr, struct folio *folio)
{
	struct ksm_record rec;

	batch->considered++;
	if (find_record(batch, addr, &rec) && ksm_record_state(rec) == KSM_MERGED &&
	    ksm_stable_owns(ksm_record_word(rec).site->stable, folio)) {
		batch->skipped++;
		batch->work += KSM_COST_UNCHANGED;
		/* It may have migrated. */
		ksm_record_set_tag(rec, folio_pfn(folio));
		return;
	}
	batch->work += KSM_COST_CHANGED;
	add_item(batch, addr, NULL, KSM_FOUND_MERGED);
}

/*
 * A page that is to be hashed. One that others hold is not merged now, and may be
 * written to unseen.
 */
static void take_page(struct ksm_batch *batch, unsigned long addr, struct page *page, bool touched)
{
	struct folio *folio = page_folio(page);
	bool busy = folio_is_busy(folio);

	if (busy && batch->dirty_bit && !touched) {
		note_change(batch, addr, page);
		return;
	}
	batch->considered++;
	batch->work += KSM_COST_HASHED;
	add_item(batch, addr, page, busy ? KSM_FOUND_BUSY : KSM_FOUND_PAGE)->touched = touched;
	folio_get(folio);
}

/*
 * Called with the page table lock held, which keeps the mapped page in being.
 * Returns whether its entry's dirty bit has to be handed over.
 */
static bool see_page(struct ksm_batch *batch, unsigned long addr, struct page *page, bool dirty,
		     bool touched)
{
	struct folio *folio = page_folio(page);

	/* One that failed stays mapped, and its sites lead to those who map it. */
	if (folio_test_ksm(folio) && PageHWPoison(page))
		return false;
	if (!folio_test_anon(folio) || folio_is_zone_device(folio) || PageHWPoison(page)) {
		see_nothing(batch, addr);
		return false;
	}
	if (folio_test_ksm(folio)) {
		see_merged(batch, addr, folio);
		return false;
	}
	if (!batch->dirty_bit || touched || (!dirty && known_unchanged(batch, addr, page)))
		take_page(batch, addr, page, touched);
	else
		note_change(batch, addr, page);
	return batch->dirty_bit && dirty;
}

/* What the walk reads of the next block, if that is full, comes into the cache meanwhile. */
static void enter_block(struct ksm_batch *batch, unsigned long addr)
{
	struct ksm_track *track = &batch->kmm->track;

	batch->block = ksm_track_block(track, addr);
	ksm_track_prefetch(ksm_track_block(track, addr + KSM_BLOCK_SIZE));
}

static void hand_over(struct ksm_batch *batch, struct vm_area_struct *vma, unsigned long addr,
		      pte_t *ptep, struct page *page)
{
	ksm_hand_over_pte(vma, addr, ptep, page_folio(page));
	if (!batch->flush_end)
		batch->flush_start = addr;
	batch->flush_end = addr + PAGE_SIZE;
	batch->handed_over++;
}

static void see_pte(struct ksm_batch *batch, struct vm_area_struct *vma, unsigned long addr,
		    pte_t *ptep)
{
	pte_t pte = ptep_get(ptep);
	struct page *page;
	bool touched;

	if (pte_none(pte)) {
		see_nothing(batch, addr);
		return;
	}
	if (!pte_present(pte)) {
		see_absent(batch, addr, softleaf_from_pte(pte));
		return;
	}
	touched = ksm_is_touched(batch, vma, addr, pte_pfn(pte));
	if (!pte_dirty(pte) && !touched && ksm_pass_over(batch, addr, pte_pfn(pte)))
		return;
	page = vm_normal_page(vma, addr, pte);
	if (!page)
		see_nothing(batch, addr);
	else if (see_page(batch, addr, page, pte_dirty(pte), touched))
		hand_over(batch, vma, addr, ptep, page);
}

/* Passes over entries without page and record: most of them where memory is sparse. */
static unsigned int pass_over_empty(const struct ksm_batch *batch, unsigned long addr, pte_t *ptep,
				    unsigned long end)
{
	unsigned int nth = (addr >> PAGE_SHIFT) & (KSM_BLOCK_PAGES - 1), nr, most;
	u64 map = batch->block ? batch->block->map >> nth : 0;

	most = min(KSM_BLOCK_PAGES - nth, (unsigned int)((end - addr) >> PAGE_SHIFT));
	for (nr = 0; nr < most; nr++)
		if ((map >> nr & 1) || !pte_none(ptep_get(ptep + nr)))
			break;
	return nr;
}

/* Returns where it stopped. */
static unsigned long walk_ptes(struct ksm_batch *batch, struct vm_area_struct *vma, pte_t *ptep,
			       unsigned long addr, unsigned long end)
{
	unsigned long start = addr;
	unsigned int nr;

	batch->flush_end = 0;
	for (; addr < end && !batch_is_full(batch); addr += nr * PAGE_SIZE, ptep += nr) {
		if (addr == start || IS_ALIGNED(addr, KSM_BLOCK_SIZE)) {
			enter_block(batch, addr);
			ksm_ask_block(batch, vma, addr, end);
		}
		nr = pass_over_empty(batch, addr, ptep, end);
		if (!nr)
			nr = ksm_pass_over_run(batch, addr, ptep, end);
		if (nr)
			continue;
		nr = 1;
		if (batch->sweeping)
			sweep_pte(batch, addr, ptep_get(ptep));
		else
			see_pte(batch, vma, addr, ptep);
	}
	if (batch->flush_end)
		flush_tlb_range(vma, batch->flush_start, batch->flush_end);
	return addr;
}

/* One bit for all pages of a huge page: if it is cleared, all have changed. */
static void see_huge_change(struct ksm_batch *batch, struct vm_area_struct *vma, pmd_t *pmdp,
			    unsigned long addr, struct page *page)
{
	unsigned long start = addr & PMD_MASK;
	unsigned int i;

	for (i = 0; i < HPAGE_PMD_NR; i++)
		note_change(batch, start + i * PAGE_SIZE, page + i);
	ksm_hand_over_pmd(vma, start, pmdp, page_folio(page));
	batch->handed_over++;
	/* Those before the walk's address were considered already. */
	batch->considered -= (addr - start) >> PAGE_SHIFT;
}

static void see_huge_part(struct ksm_batch *batch, struct vm_area_struct *vma, unsigned long addr,
			  struct page *page)
{
	unsigned long pfn = page_to_pfn(page);
	bool touched = ksm_is_touched(batch, vma, addr, pfn);

	if (touched || !ksm_pass_over(batch, addr, pfn))
		see_page(batch, addr, page, false, touched);
}

/* Likewise one accessed bit. Returns whether there is no more to do for any of the pages. */
static bool see_huge(struct ksm_batch *batch, struct vm_area_struct *vma, pmd_t *pmdp,
		     unsigned long addr, struct page *page)
{
	unsigned long start = addr & PMD_MASK;
	bool dirty = pmd_dirty(pmdp_get(pmdp));

	if (batch->secondary)
		batch->work += KSM_COST_ASKED;
	if (batch->secondary && ksm_secondary_touched(vma, start, start + PMD_SIZE)) {
		ksm_distrust(batch, start, start + PMD_SIZE);
		ksm_keep_young(page_folio(page));
		if (dirty)
			ksm_hand_over_pmd(vma, start, pmdp, page_folio(page));
		return false;
	}
	if (dirty)
		see_huge_change(batch, vma, pmdp, addr, page);
	return dirty;
}

static unsigned long walk_huge(struct ksm_batch *batch, struct vm_area_struct *vma, pmd_t *pmdp,
			       unsigned long addr, unsigned long end)
{
	unsigned long start = addr & PMD_MASK;
	pmd_t pmd = pmdp_get(pmdp);
	struct page *page = pmd_present(pmd) ? vm_normal_page_pmd(vma, start, pmd) : NULL;
	unsigned int nr;

	/* Migrating: as it was until the next pass. */
	if (!page)
		return end;
	if (!batch->sweeping && batch->dirty_bit && PageAnon(page) &&
	    see_huge(batch, vma, pmdp, addr, page))
		return end;
	batch->asked = true;
	page += (addr - start) >> PAGE_SHIFT;
	enter_block(batch, addr);
	for (; addr < end && !batch_is_full(batch); addr += nr * PAGE_SIZE, page += nr) {
		if (IS_ALIGNED(addr, KSM_BLOCK_SIZE))
			enter_block(batch, addr);
		nr = ksm_pass_over_run_huge(batch, addr, page_to_pfn(page), end);
		if (nr)
			continue;
		nr = 1;
		if (batch->sweeping)
			sweep_page(batch, addr, page_to_pfn(page), pmd_dirty(pmd));
		else
			see_huge_part(batch, vma, addr, page);
	}
	return addr;
}

/* The huge zero page, or one in a device's memory: nothing that could merge. */
static bool huge_is_gap(struct vm_area_struct *vma, unsigned long addr, pmd_t pmd)
{
	if (!pmd_present(pmd))
		return !pmd_is_migration_entry(pmd);
	return !vm_normal_page_pmd(vma, addr & PMD_MASK, pmd);
}

/* No page table, or none that has to do with us. */
static int walk_gap(struct ksm_batch *batch, unsigned long end)
{
	return !forget_gap(batch, end - 1) || was_last_part(batch);
}

static int walk_pmd(pmd_t *pmd, unsigned long addr, unsigned long end, struct mm_walk *walk)
{
	struct ksm_batch *batch = walk->private;
	spinlock_t *ptl;
	pte_t *ptep;

	ptl = pmd_trans_huge_lock(pmd, walk->vma);
	if (ptl) {
		bool gap = huge_is_gap(walk->vma, addr, pmdp_get(pmd));

		if (!gap)
			batch->next = walk_huge(batch, walk->vma, pmd, addr, end);
		spin_unlock(ptl);
		/* Sites cannot be given up under a page table lock. */
		if (gap)
			return walk_gap(batch, end);
	} else {
		ptep = pte_offset_map_lock(walk->mm, pmd, addr, &ptl);
		if (!ptep) {
			walk->action = ACTION_AGAIN;
			return 0;
		}
		batch->next = walk_ptes(batch, walk->vma, ptep, addr, end);
		pte_unmap_unlock(ptep, ptl);
	}
	return batch_is_full(batch) || was_last_part(batch);
}

static int walk_hole(unsigned long addr, unsigned long end, int depth, struct mm_walk *walk)
{
	return walk_gap(walk->private, end);
}

static const struct mm_walk_ops collect_ops = {
	.pmd_entry = walk_pmd,
	.pte_hole = walk_hole,
	.walk_lock = PGWALK_RDLOCK,
};

/* Nothing is merged in there. Returns whether the batch may go on behind it. */
static bool pass_over_vma(struct ksm_batch *batch, const struct vm_area_struct *vma)
{
	/* It will, when its first page is there. */
	if (vma->vm_flags & VM_MERGEABLE)
		batch->kmm->met = true;
	if (!was_last_part(batch))
		return true;
	forget_gap(batch, vma->vm_end - 1);
	return false;
}

/**
 * ksm_collect - walk the page tables from batch->next on
 * @batch: gets items, until it is full or the mm ends
 *
 * Context: the mmap_lock and the mm locked.
 */
void ksm_collect(struct ksm_batch *batch)
{
	VMA_ITERATOR(vmi, batch->kmm->slot.mm, batch->next);
	struct vm_area_struct *vma;

	for_each_vma(vmi, vma) {
		unsigned long start = max(vma->vm_start, batch->next);

		if (!ksm_vma_mergeable(vma)) {
			batch->stopped = !pass_over_vma(batch, vma);
			if (batch->stopped)
				return;
			continue;
		}
		batch->kmm->met = true;
		batch->stopped = batch->next < start && !forget_gap(batch, start - 1);
		if (batch->stopped)
			return;
		batch->dirty_bit = ksm_dirty_bit_tells(vma);
		batch->secondary = batch->dirty_bit && mm_has_notifiers(vma->vm_mm);
		batch->stopped = walk_page_range_vma(vma, start, vma->vm_end, &collect_ops, batch);
		if (batch->stopped)
			return;
		batch->next = vma->vm_end;
	}
	batch->stopped = !forget_gap(batch, ULONG_MAX);
}
