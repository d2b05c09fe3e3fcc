/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What collecting the pages of a batch hands over to filing them.
 */
#ifndef _MM_KSM_BATCH_H
#define _MM_KSM_BATCH_H

#include "ksm.h"

/* KSM_REFRESH_PASSES where secondary MMUs have a say: they forget what the dirty bit would keep. */
#define KSM_REFRESH_SECONDARY	16
/* KSM_REFRESH_PASSES for passes that take their time. */
#define KSM_REFRESH_CALM	64
/* They are asked about a whole block after so many passes without touched pages. */
#define KSM_QUIET_PASSES	8

/* No address of a page. */
#define KSM_NOWHERE		(~0UL)

/**
 * enum ksm_found - what the walk found at an address
 * @KSM_FOUND_PAGE: an ordinary anonymous page
 * @KSM_FOUND_BUSY: the same, but held by others: watched, not merged now
 * @KSM_FOUND_CHANGED: the same where a merged folio was; its dirty bit is cleared
 * @KSM_FOUND_MERGED: a merged folio that the record does not know of
 * @KSM_FOUND_GONE: nothing that could merge, but the record knows something
 */
enum ksm_found {
	KSM_FOUND_PAGE,
	KSM_FOUND_BUSY,
	KSM_FOUND_CHANGED,
	KSM_FOUND_MERGED,
	KSM_FOUND_GONE,
};

/**
 * struct ksm_item - one address of a batch
 * @addr: page aligned
 * @page: with a reference while the batch is hashed, else NULL
 * @pfn: of the page
 * @key: what it is filed under, once hashed
 * @found: what the walk found
 * @dirty_bit: whether it tells change here
 * @touched: a secondary MMU may have written to the page all the same: compare its key
 * @shared: others may map the page, too
 * @refresh: whether this pass looks at the page whatever is known of it
 * @rewritten: the merged page that was here was written to
 * @in_round: it is hashed as a part of a huge page that has changed somewhere
 * @missed: there is a partner, but its mm's locks could not be had, or it is this page
 *	that has to wait for the partner
 * @again: it is settled, and another page with its key seems to be so, too
 */
struct ksm_item {
	unsigned long addr;
	struct page *page;
	unsigned long pfn;
	u64 key;
	enum ksm_found found;
	bool dirty_bit;
	bool touched;
	bool shared;
	bool refresh;
	bool rewritten;
	bool in_round;
	bool missed;
	bool again;
};

/**
 * struct ksm_pair - a page of this mm and a candidate of another
 * @item: the page
 * @partner: the candidate, with a reference on its mm
 * @err: how its promotion went
 */
struct ksm_pair {
	struct ksm_item *item;
	struct ksm_partner partner;
	int err;
};

/**
 * struct ksm_batch - the work done under one hold of an mm's locks
 * @kmm: whose pages
 * @work: done so far, in parts of hashing a page
 * @max_work: when to stop
 * @pass: ksm_whole_passes
 * @considered: present pages seen
 * @skipped: of these, passed over as unchanged
 * @handed_over: dirty bits handed over to folios
 * @parts: page tables, holes and VMAs gone over
 * @forgotten: records forgotten where nothing is mapped
 * @now: jiffies when it began
 * @unit: ksm_backoff_unit() then
 * @found: pages seen for the first time, and pages merged that have not been before
 * @changed: pages found changed that had not changed since they were first seen
 * @next: where the walk goes on
 * @stopped: the walk ended before the mm does
 * @sweeping: only settled pages whose key is wanted are looked at
 * @calm: the pass is in no hurry
 * @refresh_all: all pages are hashed, whatever is known of them
 * @wanting: some keys are wanted
 * @renewing: keys have to be noted anew
 * @again: address of a settled page whose key was noted anew already, or KSM_NOWHERE
 * @dirty_bit: whether it tells change where the walk is
 * @secondary: secondary MMUs have to be asked, too
 * @asked: they have been, about all that is left of the block
 * @flush_start: from here TLBs have to be flushed before the page table lock goes
 * @flush_end: to here, or 0
 * @block: records around the walk's address while a page table is walked
 * @nr_items: entries in @items
 * @nr_pairs: entries in @pairs
 * @items: pages to look at; those that are known and unchanged have none
 * @pairs: what is left to do without this mm's locks
 */
struct ksm_batch {
	struct ksm_mm *kmm;
	unsigned int work;
	unsigned int max_work;
	unsigned int pass;
	unsigned int considered;
	unsigned int skipped;
	unsigned int handed_over;
	unsigned int parts;
	unsigned int forgotten;
	unsigned int unit;
	unsigned int found;
	unsigned int changed;
	unsigned long now;
	unsigned long next;
	bool stopped;
	bool sweeping;
	bool calm;
	bool refresh_all;
	bool wanting;
	bool renewing;
	unsigned long again;
	bool dirty_bit;
	bool secondary;
	bool asked;
	unsigned long flush_start;
	unsigned long flush_end;
	struct ksm_block *block;
	unsigned int nr_items;
	unsigned int nr_pairs;
	struct ksm_item items[KSM_BATCH_PAGES];
	struct ksm_pair pairs[KSM_BATCH_PAGES];
};

/* ---- change: dirty and accessed bits ---- */

bool ksm_secondary_touched(struct vm_area_struct *vma, unsigned long start, unsigned long end);
void ksm_keep_young(struct folio *folio);
void ksm_hand_over_pte(struct vm_area_struct *vma, unsigned long addr, pte_t *ptep,
		       struct folio *folio);
void ksm_hand_over_pmd(struct vm_area_struct *vma, unsigned long addr, pmd_t *pmdp,
		       struct folio *folio);

/* Frames of a chunk, as a power of two: what is cleared together. */
#define KSM_NOTED_SHIFT		12

/**
 * struct ksm_noted_maps - a bit for each frame of memory, by the low bits of its PFN
 * @frames: which are noted
 * @chunks: in which chunks of frames there are any
 * @mask: of a PFN
 */
struct ksm_noted_maps {
	unsigned long *frames[2];
	unsigned long *chunks[2];
	unsigned long mask;
};

/**
 * struct ksm_noted - frames that came to be mapped by clean entries in this pass or the last
 * @maps: which; NULL before the first pass, and as long as there is no memory for them
 * @any: whether there are any
 * @now: which half of each pair is of the pass that is going on
 *
 * Set by faults, without a lock. A wrong answer costs hashing a page.
 */
struct ksm_noted {
	struct ksm_noted_maps *maps;
	bool any[2];
	unsigned int now;
};

extern struct ksm_noted ksm_noted;

/* Under a page table lock this is true for what a fault has done under it. */
static inline bool ksm_any_frame_noted(void)
{
	return READ_ONCE(ksm_noted.any[0]) || READ_ONCE(ksm_noted.any[1]);
}

/* An address dependency pairs with the release in noted_alloc(). */
static inline const struct ksm_noted_maps *ksm_noted_maps(void)
{
	return READ_ONCE(ksm_noted.maps);
}

bool ksm_maps_noted(const struct ksm_noted_maps *maps, unsigned long pfn);

/*
 * Whether a page that is mapped by a clean entry may be a new one in this pass or the
 * last; if there are any. Its chunk tells of most that they are not.
 */
static inline bool ksm_frame_noted(const struct ksm_noted_maps *maps, unsigned long pfn)
{
	unsigned long chunk, word;

	if (!maps)
		return true;
	chunk = (pfn & maps->mask) >> KSM_NOTED_SHIFT;
	word = READ_ONCE(maps->chunks[0][BIT_WORD(chunk)]) |
	       READ_ONCE(maps->chunks[1][BIT_WORD(chunk)]);
	return (word >> (chunk % BITS_PER_LONG) & 1) && ksm_maps_noted(maps, pfn);
}

/* ---- unchanged: what is passed over ---- */

bool ksm_refresh_due(const struct ksm_batch *batch, unsigned long addr);
void ksm_distrust(struct ksm_batch *batch, unsigned long addr, unsigned long end);
void ksm_ask_block(struct ksm_batch *batch, struct vm_area_struct *vma, unsigned long addr,
		   unsigned long end);
bool ksm_is_touched(struct ksm_batch *batch, struct vm_area_struct *vma, unsigned long addr,
		    unsigned long pfn);
bool ksm_pass_over(struct ksm_batch *batch, unsigned long addr, unsigned long pfn);
bool ksm_is_noted(unsigned long pfn);
bool ksm_is_again(struct ksm_batch *batch, unsigned long addr, u64 key);
bool ksm_left_alone(struct ksm_batch *batch, unsigned long addr, unsigned long pfn);
unsigned int ksm_pass_over_run(struct ksm_batch *batch, unsigned long addr, pte_t *ptep,
			       unsigned long end);
unsigned int ksm_pass_over_run_huge(struct ksm_batch *batch, unsigned long addr,
				    unsigned long pfn, unsigned long end);

/* ---- visit: one page of a walk ---- */

bool ksm_batch_full(const struct ksm_batch *batch);
void ksm_enter_block(struct ksm_batch *batch, unsigned long addr);
void ksm_visit_nothing(struct ksm_batch *batch, unsigned long addr);
void ksm_visit_absent(struct ksm_batch *batch, unsigned long addr, softleaf_t entry);
bool ksm_visit_page(struct ksm_batch *batch, unsigned long addr, struct page *page, bool dirty,
		    bool touched);
void ksm_note_change(struct ksm_batch *batch, unsigned long addr, struct page *page, bool written);
void ksm_sweep_page(struct ksm_batch *batch, unsigned long addr, unsigned long pfn, bool dirty,
		    bool touched);

/* ---- huge: huge pages ---- */

#ifdef CONFIG_TRANSPARENT_HUGEPAGE
bool ksm_in_huge_round(const struct ksm_batch *batch, unsigned long addr);
void ksm_huge_has_news(struct ksm_mm *kmm, unsigned long addr);
unsigned long ksm_walk_huge(struct ksm_batch *batch, struct vm_area_struct *vma, pmd_t *pmdp,
			    unsigned long addr, unsigned long end);
bool ksm_huge_is_gap(struct vm_area_struct *vma, unsigned long addr, pmd_t pmd);
#else
static inline bool ksm_in_huge_round(const struct ksm_batch *batch, unsigned long addr)
{
	return false;
}

static inline void ksm_huge_has_news(struct ksm_mm *kmm, unsigned long addr) { }

static inline unsigned long ksm_walk_huge(struct ksm_batch *batch, struct vm_area_struct *vma,
					  pmd_t *pmdp, unsigned long addr, unsigned long end)
{
	return end;
}

static inline bool ksm_huge_is_gap(struct vm_area_struct *vma, unsigned long addr, pmd_t pmd)
{
	return true;
}
#endif

/* ---- file ---- */

void ksm_forget_gone(const struct ksm_batch *batch, unsigned long addr, struct ksm_record rec);
void ksm_file_items(struct ksm_batch *batch);
void ksm_file_pair(struct ksm_batch *batch, const struct ksm_pair *pair);

/* ---- collect ---- */

void ksm_collect(struct ksm_batch *batch);

#endif /* _MM_KSM_BATCH_H */
