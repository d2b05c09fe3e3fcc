// SPDX-License-Identifier: GPL-2.0-only
/*
 * Huge pages: one dirty bit, and one accessed bit of a secondary MMU, for all pages.
 *
 * A huge page that is written to somewhere looks changed as a whole. The first time it
 * is noted so. If it is dirty again at a later visit, that is taken for a part of it only:
 * its pages are hashed in a *round*, compared with their last keys, and merge where they
 * have partners. The huge page is split by that, and the dirty bits of its pages tell
 * from then on. If they have none it stays whole, the time until the next round doubles,
 * and rounds become samples. Between two rounds its dirty bit is not looked at.
 *
 * How patient ksmd is with a huge page, and when the last round was, stands in the first
 * block of its records.
 */
#include <linux/hash.h>
#include <linux/jiffies.h>
#include <linux/ksm.h>
#include <linux/pgtable.h>

#include "batch.h"

/* Rounds from this level on are samples of one page in so many. */
#define SAMPLE_LEVEL		4
#define SAMPLE_PART		8
/* If so many pages of a sample have changed, or come to rest, others have. */
#define SAMPLE_NEWS		(HPAGE_PMD_NR / SAMPLE_PART / 8)
/* Up to this level pages that have no stable key are hashed in samples, too. */
#define SAMPLE_LEVEL_ALL	6
#define LEVEL_MAX_HUGE		9

/**
 * ksm_in_huge_round - whether a page belongs to a huge page whose round is under way
 * @batch: where the walk is
 * @addr: of the page
 *
 * A round goes on where the batch before stopped, though the huge page is dirty again or
 * has been split.
 *
 * Return: true if it does.
 */
bool ksm_in_huge_round(const struct ksm_batch *batch, unsigned long addr)
{
	return batch->kmm->huge_round && addr - batch->kmm->huge_round < PMD_SIZE;
}

/**
 * ksm_huge_has_news - a settled page of a huge page has changed, or another has stayed the same
 * @kmm: whose
 * @addr: of the page
 *
 * If it is so with many of a sample the next round is for all.
 *
 * Context: @kmm locked.
 */
void ksm_huge_has_news(struct ksm_mm *kmm, unsigned long addr)
{
	struct ksm_block *block = ksm_track_block(&kmm->track, addr & PMD_MASK);

	if (++kmm->huge_news >= SAMPLE_NEWS && block && block->level >= SAMPLE_LEVEL)
		block->level = SAMPLE_LEVEL - 2;
}

/* One bit for all pages: if it is cleared, all have changed. */
static void huge_change(struct ksm_batch *batch, struct vm_area_struct *vma, pmd_t *pmdp,
			unsigned long addr, struct page *page)
{
	unsigned long start = addr & PMD_MASK;
	struct ksm_block *block;
	unsigned int i;

	for (i = 0; i < HPAGE_PMD_NR; i++)
		ksm_note_change(batch, start + i * PAGE_SIZE, page + i, false);
	ksm_hand_over_pmd(vma, start, pmdp, page_folio(page));
	batch->handed_over++;
	/* Those before the walk's address were considered already. */
	batch->considered -= (addr - start) >> PAGE_SHIFT;
	block = ksm_track_block(&batch->kmm->track, start);
	if (block) {
		block->level = 1;
		block->since = (u32)batch->now;
	}
}

/* What there is to do for the pages of a huge page. */
enum huge_visit {
	HUGE_DONE,	/* nothing any more */
	HUGE_EARLY,	/* it has changed, and it is too early for another round */
	HUGE_ROUND,	/* hash them */
	HUGE_CLEAN,	/* as for small pages that are clean */
};

static enum huge_visit visit_secondary(struct ksm_batch *batch, struct vm_area_struct *vma,
				       pmd_t *pmdp, unsigned long addr, struct page *page)
{
	unsigned long start = addr & PMD_MASK;
	bool dirty = pmd_dirty(pmdp_get(pmdp));

	batch->work += KSM_COST_ASKED;
	if (ksm_secondary_touched(vma, start, start + PMD_SIZE)) {
		ksm_distrust(batch, start, start + PMD_SIZE);
		ksm_keep_young(page_folio(page));
		if (dirty)
			ksm_hand_over_pmd(vma, start, pmdp, page_folio(page));
		return HUGE_CLEAN;
	}
	if (!dirty)
		return HUGE_CLEAN;
	huge_change(batch, vma, pmdp, addr, page);
	return HUGE_DONE;
}

/* Whether another huge page has come since its level was set: one that was collapsed. */
static bool is_another(struct ksm_block *block, unsigned long start, struct page *page)
{
	struct ksm_record rec;

	return ksm_block_find(block, start, &rec) && ksm_record_state(rec) != KSM_UNSEEN &&
	       !ksm_record_has_tag(rec, page_to_pfn(page));
}

static enum huge_visit visit_huge(struct ksm_batch *batch, struct vm_area_struct *vma, pmd_t *pmdp,
				  unsigned long addr, struct page *page)
{
	unsigned long start = addr & PMD_MASK;
	struct ksm_block *block;

	if (batch->secondary)
		return visit_secondary(batch, vma, pmdp, addr, page);
	if (ksm_in_huge_round(batch, addr))
		return HUGE_ROUND;
	block = ksm_track_block(&batch->kmm->track, start);
	if (!pmd_dirty(pmdp_get(pmdp))) {
		if (block && block->level > 1 && addr == start)
			block->level--;
		return HUGE_CLEAN;
	}
	if (!block || !block->level || is_another(block, start, page)) {
		huge_change(batch, vma, pmdp, addr, page);
		return HUGE_DONE;
	}
	if ((u32)batch->now - block->since < ksm_backoff_wait(batch->unit, block->level))
		return HUGE_EARLY;
	ksm_hand_over_pmd(vma, start, pmdp, page_folio(page));
	batch->handed_over++;
	block->level = min(block->level + 1, LEVEL_MAX_HUGE);
	block->since = (u32)batch->now;
	batch->kmm->huge_round = start;
	batch->kmm->huge_news = 0;
	return HUGE_ROUND;
}

/* Another part of the pages in most rounds. */
static bool is_sample(const struct ksm_block *block, unsigned long addr)
{
	return ((addr >> PAGE_SHIFT) + hash_32(block->since, 8)) % SAMPLE_PART == 0;
}

/* Whether a page of a huge page that has changed somewhere is to be hashed. */
static bool hash_part(struct ksm_batch *batch, unsigned long addr, enum huge_visit visit)
{
	const struct ksm_block *first = ksm_track_block(&batch->kmm->track, addr & PMD_MASK);
	enum ksm_state state;
	struct ksm_record rec;

	if (!first || !ksm_block_find(batch->block, addr, &rec))
		return visit == HUGE_ROUND;
	state = ksm_record_state(rec);
	/* A huge page has come to where a merged one was: its record is to be forgotten. */
	if (state == KSM_MERGED)
		return true;
	if (state == KSM_SETTLED && (ksm_sight_wanted(ksm_record_word(rec).key) ||
				     ksm_is_again(batch, addr, ksm_record_word(rec).key)))
		return true;
	if (visit == HUGE_EARLY)
		return false;
	if (first->level < SAMPLE_LEVEL || is_sample(first, addr))
		return true;
	return state != KSM_SETTLED && first->level <= SAMPLE_LEVEL_ALL;
}

static void visit_part(struct ksm_batch *batch, struct vm_area_struct *vma, unsigned long addr,
		       struct page *page, enum huge_visit visit)
{
	unsigned long pfn = page_to_pfn(page);
	bool touched;

	if (visit == HUGE_CLEAN) {
		touched = ksm_is_touched(batch, vma, addr, pfn);
		if (touched || !ksm_pass_over(batch, addr, pfn))
			ksm_visit_page(batch, addr, page, false, touched);
		return;
	}
	if (hash_part(batch, addr, visit)) {
		ksm_visit_page(batch, addr, page, false, true);
		return;
	}
	batch->considered++;
	batch->skipped++;
	batch->work += KSM_COST_UNCHANGED;
}

/* Nothing to do for any page from here on, as no key is wanted or has to be noted anew. */
static bool pass_over_all(struct ksm_batch *batch, unsigned long addr, unsigned long end)
{
	unsigned int nr = (end - addr) >> PAGE_SHIFT;

	if (batch->wanting || batch->renewing)
		return false;
	batch->considered += nr;
	batch->skipped += nr;
	batch->work += nr / KSM_BLOCK_PAGES + 1;
	return true;
}

static void sweep_huge_part(struct ksm_batch *batch, unsigned long addr, struct page *page)
{
	/* Which of its pages has changed the key tells. */
	ksm_sweep_page(batch, addr, page_to_pfn(page), false, true);
}

/**
 * ksm_walk_huge - visit the pages of a huge page
 * @batch: where the walk is
 * @vma: the VMA
 * @pmdp: maps a huge page, and is no gap
 * @addr: of the first page to visit
 * @end: where to end
 *
 * Context: page table lock held.
 * Return: where it stopped.
 */
unsigned long ksm_walk_huge(struct ksm_batch *batch, struct vm_area_struct *vma, pmd_t *pmdp,
			    unsigned long addr, unsigned long end)
{
	unsigned long start = addr & PMD_MASK;
	pmd_t pmd = pmdp_get(pmdp);
	struct page *page = pmd_present(pmd) ? vm_normal_page_pmd(vma, start, pmd) : NULL;
	enum huge_visit visit = HUGE_CLEAN;
	unsigned int nr;

	/* Migrating: as it was until the next pass. */
	if (!page)
		return end;
	/* One that was given up by MADV_FREE is left alone as long as it is whole. */
	if (!batch->sweeping && batch->dirty_bit && PageAnon(page) &&
	    !folio_test_lazyfree(page_folio(page)))
		visit = visit_huge(batch, vma, pmdp, addr, page);
	if (visit == HUGE_DONE || (visit == HUGE_EARLY && pass_over_all(batch, addr, end)))
		return end;
	batch->asked = true;
	page += (addr - start) >> PAGE_SHIFT;
	ksm_enter_block(batch, addr);
	for (; addr < end && !ksm_batch_full(batch); addr += nr * PAGE_SIZE, page += nr) {
		if (IS_ALIGNED(addr, KSM_BLOCK_SIZE))
			ksm_enter_block(batch, addr);
		nr = visit == HUGE_CLEAN ?
		     ksm_pass_over_run_huge(batch, addr, page_to_pfn(page), end) : 0;
		if (nr)
			continue;
		nr = 1;
		if (batch->sweeping)
			sweep_huge_part(batch, addr, page);
		else
			visit_part(batch, vma, addr, page, visit);
	}
	return addr;
}

/**
 * ksm_huge_is_gap - whether a huge entry maps nothing that could merge
 * @vma: the VMA
 * @addr: in the huge page
 * @pmd: the entry
 *
 * Context: page table lock held.
 * Return: true for the huge zero page, and for one in a device's memory.
 */
bool ksm_huge_is_gap(struct vm_area_struct *vma, unsigned long addr, pmd_t pmd)
{
	if (!pmd_present(pmd))
		return !pmd_is_migration_entry(pmd);
	return !vm_normal_page_pmd(vma, addr & PMD_MASK, pmd);
}
