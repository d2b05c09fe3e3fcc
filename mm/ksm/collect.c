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

/* However little there is in them, many parts of an address space take long. */
static bool was_last_part(struct ksm_batch *batch)
{
	return ++batch->parts >= KSM_BATCH_PARTS;
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
		ksm_forget_gone(batch, addr, rec);
		if (last - addr < PAGE_SIZE)
			break;
		addr += PAGE_SIZE;
	}
	ksm_track_trim(track, start, last);
	batch->next = last + 1;
	return true;
}

static void sweep_pte(struct ksm_batch *batch, unsigned long addr, pte_t pte)
{
	/* Secondary MMUs may have written to it since the last visit: they are not asked now. */
	if (pte_present(pte))
		ksm_sweep_page(batch, addr, pte_pfn(pte), pte_dirty(pte), batch->secondary);
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
		ksm_visit_nothing(batch, addr);
		return;
	}
	if (!pte_present(pte)) {
		ksm_visit_absent(batch, addr, softleaf_from_pte(pte));
		return;
	}
	ksm_point_spin(KSM_POINT_LOOK);
	if (ksm_left_alone(batch, addr, pte_pfn(pte)))
		return;
	touched = ksm_in_huge_round(batch, addr) ||
		  ksm_is_touched(batch, vma, addr, pte_pfn(pte));
	if (!pte_dirty(pte) && !touched && ksm_pass_over(batch, addr, pte_pfn(pte)))
		return;
	page = vm_normal_page(vma, addr, pte);
	if (!page)
		ksm_visit_nothing(batch, addr);
	else if (ksm_visit_page(batch, addr, page, pte_dirty(pte), touched))
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
	for (; addr < end && !ksm_batch_full(batch); addr += nr * PAGE_SIZE, ptep += nr) {
		if (addr == start || IS_ALIGNED(addr, KSM_BLOCK_SIZE)) {
			ksm_enter_block(batch, addr);
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
		bool gap = ksm_huge_is_gap(walk->vma, addr, pmdp_get(pmd));

		if (!gap)
			batch->next = ksm_walk_huge(batch, walk->vma, pmd, addr, end);
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
	/* Where it stopped tells, for others may have ceased to wait meanwhile. */
	return batch->next < end || ksm_batch_full(batch) || was_last_part(batch);
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
