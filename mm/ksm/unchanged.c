// SPDX-License-Identifier: GPL-2.0-only
/*
 * What has not changed: pages that the walk passes over.
 *
 * The dirty bit of a PTE, the tag of the PFN and, where there are secondary MMUs,
 * their accessed bits tell that a page is as it was at the last visit; see
 * change.c for what they are worth. All here is called under a page table lock.
 */
#include <linux/jiffies.h>
#include <linux/ksm.h>
#include <linux/pgtable.h>

#include "batch.h"

/* Pages from here on, up to the first that is due to be hashed again: 0 if it is this. */
static unsigned int pages_before_refresh(const struct ksm_batch *batch, unsigned long addr)
{
	unsigned int passes = batch->calm ? KSM_REFRESH_CALM : KSM_REFRESH_PASSES;

	if (batch->secondary)
		passes = KSM_REFRESH_SECONDARY;
	return batch->refresh_all ? 0 : -((addr >> PAGE_SHIFT) + batch->pass) & (passes - 1);
}

/**
 * ksm_refresh_due - whether it is a page's turn to be hashed, whatever is known of it
 * @batch: where the walk is
 * @addr: of the page
 *
 * Return: true if it is.
 */
bool ksm_refresh_due(const struct ksm_batch *batch, unsigned long addr)
{
	return !pages_before_refresh(batch, addr);
}

/**
 * ksm_is_again - whether a page with the key of a settled one was met before it in this pass
 * @batch: where the walk is
 * @addr: of the settled page
 * @key: its key, noted by this if a filter is being filled
 *
 * They may be equal, and neither know of the other.
 *
 * Return: true if so; always false if no filter is being filled.
 */
bool ksm_is_again(struct ksm_batch *batch, unsigned long addr, u64 key)
{
	if (!ksm_sight_renew(key))
		return false;
	batch->again = addr;
	return true;
}

/* Whether a candidate is to wait on. If its key was met before, that other page is wanted. */
static bool waits_on(struct ksm_batch *batch, struct ksm_record rec)
{
	const struct ksm_candidate *candidate = ksm_record_word(rec).candidate;
	u64 key = candidate->node.key;

	if (ksm_sight_wanted(key))
		return false;
	if (ksm_sight_renew(key))
		ksm_sight_want(key);
	else if (ksm_candidate_waited(candidate, batch->pass))
		ksm_unstable_settle(batch->kmm, rec);
	return true;
}

/**
 * ksm_is_noted - whether a page may have come with a clean entry since the last pass began
 * @pfn: of the page
 *
 * Return: true also for some others.
 */
bool ksm_is_noted(unsigned long pfn)
{
	return ksm_any_frame_noted() && ksm_frame_noted(ksm_noted_maps(), pfn);
}

/* Whether there is nothing to do for a page that has not changed. */
static bool may_rest(struct ksm_batch *batch, unsigned long addr, struct ksm_record rec,
		     unsigned long pfn)
{
	enum ksm_state state = ksm_record_state(rec);
	u64 key = ksm_record_word(rec).key;

	if (ksm_refresh_due(batch, addr) || batch->again == addr)
		return false;
	if (state == KSM_MERGED)
		return !ksm_is_noted(pfn) || folio_test_ksm(pfn_folio(pfn));
	if (!batch->dirty_bit || ksm_is_noted(pfn))
		return false;
	if (state == KSM_SETTLED)
		return !ksm_sight_wanted(key) && !ksm_is_again(batch, addr, key);
	return state == KSM_CANDIDATE && waits_on(batch, rec);
}

/**
 * ksm_distrust - a range was touched, nobody can tell any more which pages it was
 * @batch: where the walk is
 * @addr: first byte
 * @end: where it ends
 *
 * Without a tag none of them passes for unchanged.
 */
void ksm_distrust(struct ksm_batch *batch, unsigned long addr, unsigned long end)
{
	struct ksm_record rec;

	while (ksm_track_next(&batch->kmm->track, &addr, end - 1, &rec)) {
		ksm_record_set_tag(rec, KSM_NO_PFN);
		addr += PAGE_SIZE;
	}
}

/**
 * ksm_ask_block - ask secondary MMUs about a block of pages as a whole
 * @batch: where the walk is: its block is
 * @vma: the VMA
 * @addr: of the first page
 * @end: where the walk ends
 *
 * To ask about each page costs a good part of hashing it. So this is done for a
 * block that was quiet for some passes. It counts merged pages, too.
 */
void ksm_ask_block(struct ksm_batch *batch, struct vm_area_struct *vma, unsigned long addr,
		   unsigned long end)
{
	struct ksm_block *block = batch->block;

	batch->asked = false;
	if (!batch->secondary || !block || batch->sweeping)
		return;
	if (block->quiet < KSM_QUIET_PASSES) {
		/* Once in a pass: the rest of a block may be left to the next batch. */
		block->quiet += IS_ALIGNED(addr, KSM_BLOCK_SIZE);
		return;
	}
	end = min(end, ALIGN(addr + 1, KSM_BLOCK_SIZE));
	batch->asked = true;
	batch->work += KSM_COST_ASKED;
	if (ksm_secondary_touched(vma, addr, end)) {
		block->quiet = 0;
		ksm_distrust(batch, addr, end);
	}
}

/**
 * ksm_is_touched - whether a secondary MMU may have written to a page since the last visit
 * @batch: where the walk is
 * @vma: the VMA
 * @addr: of the page
 * @pfn: that is mapped there
 *
 * Of one that is new, or was touched together with others, nobody knows: it is not
 * asked about, and if the bit is set the next visit will find it.
 *
 * Return: true if one may have.
 */
bool ksm_is_touched(struct ksm_batch *batch, struct vm_area_struct *vma, unsigned long addr,
		    unsigned long pfn)
{
	struct ksm_record rec;

	if (!batch->secondary)
		return false;
	if (!ksm_block_find(batch->block, addr, &rec))
		return true;
	if (!ksm_record_has_tag(rec, KSM_NO_PFN)) {
		if (!ksm_record_has_tag(rec, pfn))
			return true;
		/* A merged page cannot be written to. */
		if (batch->asked || ksm_record_state(rec) == KSM_MERGED)
			return false;
		batch->work += KSM_COST_ASKED;
		if (!ksm_secondary_touched(vma, addr, addr + PAGE_SIZE))
			return false;
		batch->block->quiet = 0;
	}
	ksm_keep_young(pfn_folio(pfn));
	return true;
}

/**
 * ksm_pass_over - pass over a page if it has not changed and there is nothing to do
 * @batch: where the walk is
 * @addr: of the page
 * @pfn: mapped there by an entry that is clean; it was not touched, either
 *
 * Return: whether it was passed over.
 */
bool ksm_pass_over(struct ksm_batch *batch, unsigned long addr, unsigned long pfn)
{
	struct ksm_record rec;

	if (!ksm_block_find(batch->block, addr, &rec) || !ksm_record_has_tag(rec, pfn) ||
	    !may_rest(batch, addr, rec, pfn))
		return false;
	batch->considered++;
	batch->skipped++;
	batch->work += KSM_COST_UNCHANGED;
	return true;
}

/**
 * ksm_left_alone - pass over a page that was found changed, if it is too early to look again
 * @batch: where the walk is
 * @addr: of the page
 * @pfn: mapped there, whether its entry is dirty or not
 *
 * Return: whether it was passed over.
 */
bool ksm_left_alone(struct ksm_batch *batch, unsigned long addr, unsigned long pfn)
{
	struct ksm_record rec;
	unsigned long wait;

	if (!batch->unit || !batch->dirty_bit || !ksm_block_find(batch->block, addr, &rec) ||
	    ksm_record_state(rec) != KSM_CLEANED || !ksm_record_has_tag(rec, pfn))
		return false;
	wait = ksm_backoff_wait(batch->unit, ksm_record_level(rec));
	if (batch->now - (unsigned long)ksm_record_word(rec).since >= wait)
		return false;
	batch->considered++;
	batch->skipped++;
	batch->work += KSM_COST_UNCHANGED;
	return true;
}

/* Pages that nothing but their entries has to be asked about, from the first record on. */
struct resting {
	const u32 *heads;
	unsigned int most;	/* as far as a block of records goes */
	u32 states;		/* bits of enum ksm_state that rest now */
};

static struct resting look_at_block(const struct ksm_batch *batch, unsigned long addr,
				    unsigned long end)
{
	unsigned int nth = (addr >> PAGE_SHIFT) & (KSM_BLOCK_PAGES - 1);
	struct resting resting = { .states = BIT(KSM_MERGED) };

	if (!batch->block || batch->block->room != KSM_BLOCK_PAGES ||
	    (batch->secondary && !batch->asked))
		return resting;
	if (batch->dirty_bit)
		resting.states |= BIT(KSM_SETTLED);
	resting.heads = ksm_block_heads(batch->block) + nth;
	resting.most = min3(KSM_BLOCK_PAGES - nth, (unsigned int)((end - addr) >> PAGE_SHIFT),
			    pages_before_refresh(batch, addr));
	return resting;
}

static bool is_resting(const struct resting *resting, unsigned int nr, unsigned long pfn)
{
	u32 head = resting->heads[nr];

	return (head & KSM_TAG_MASK) == ksm_pfn_tag(pfn) &&
	       resting->states >> (head & KSM_STATE_MASK) & 1;
}

/* Where in its block, which is full, a page has its record. */
static unsigned int slot_of(unsigned long addr)
{
	return (addr >> PAGE_SHIFT) & (KSM_BLOCK_PAGES - 1);
}

/* Of so many pages: those before the first that may be a new one. No PTE: a huge page. */
static unsigned int before_noted(const u32 *heads, unsigned long pfn, pte_t *ptep,
				 unsigned int most)
{
	const struct ksm_noted_maps *maps = ksm_noted_maps();
	unsigned int nr;

	for (nr = 0; nr < most; nr++) {
		unsigned long frame = ptep ? pte_pfn(ptep_get(ptep + nr)) : pfn + nr;

		if (ksm_frame_noted(maps, frame) &&
		    ((heads[nr] & KSM_STATE_MASK) == KSM_SETTLED ||
		     !folio_test_ksm(pfn_folio(frame))))
			break;
	}
	return nr;
}

/* Those before the first settled one whose key is wanted. */
static unsigned int before_wanted(const u32 *heads, const union ksm_word *words,
				  unsigned int most)
{
	unsigned int nr;

	for (nr = 0; nr < most; nr++)
		if ((heads[nr] & KSM_STATE_MASK) == KSM_SETTLED && ksm_sight_wanted(words[nr].key))
			break;
	return nr;
}

/* Those before the first settled one whose key another has, too. */
static unsigned int before_again(struct ksm_batch *batch, const u32 *heads,
				 const union ksm_word *words, unsigned long addr,
				 unsigned int most)
{
	unsigned int nr;

	for (nr = 0; nr < most; nr++)
		if ((heads[nr] & KSM_STATE_MASK) == KSM_SETTLED &&
		    ksm_is_again(batch, addr + nr * PAGE_SIZE, words[nr].key))
			break;
	return nr;
}

/* In most passes nothing goes on that concerns pages that have not changed. */
static bool is_calm(const struct ksm_batch *batch)
{
	return !batch->wanting && !batch->renewing && !ksm_any_frame_noted();
}

/* Else only pages that are concerned leave the run: those before the first one. */
static unsigned int before_concerned(struct ksm_batch *batch, unsigned long addr,
				     unsigned long pfn, pte_t *ptep, unsigned int nr)
{
	const u32 *heads = ksm_block_heads(batch->block) + slot_of(addr);
	const union ksm_word *words = batch->block->word + slot_of(addr);

	if (ksm_any_frame_noted())
		nr = before_noted(heads, pfn, ptep, nr);
	if (batch->wanting)
		nr = before_wanted(heads, words, nr);
	if (batch->renewing)
		nr = before_again(batch, heads, words, addr, nr);
	return nr;
}

/* In a sweep: records that are not of settled pages, or of some that nobody wants. */
static unsigned int sweep_over(struct ksm_batch *batch, unsigned long addr, unsigned long end)
{
	unsigned int nr = min(KSM_BLOCK_PAGES - slot_of(addr),
			      (unsigned int)((end - addr) >> PAGE_SHIFT));
	struct ksm_block *block = batch->block;

	if (block && block->room != KSM_BLOCK_PAGES)
		return 0;
	if (block)
		nr = before_wanted(ksm_block_heads(block) + slot_of(addr),
				   block->word + slot_of(addr), nr);
	batch->work += nr * KSM_COST_UNCHANGED;
	return nr;
}

static void note_passed_over(struct ksm_batch *batch, unsigned int nr)
{
	batch->considered += nr;
	batch->skipped += nr;
	batch->work += nr * KSM_COST_UNCHANGED;
}

/**
 * ksm_pass_over_run - pass over settled and merged pages that have not changed
 * @batch: where the walk is
 * @addr: of the first page
 * @ptep: its entry
 * @end: where the walk ends
 *
 * This is what there is most of, in few instructions. What is behind them may have
 * to be passed over, too. A frame that is not noted is that of the merged folio still;
 * should mremap() have brought another one, refresh will tell.
 *
 * Return: how many were passed over.
 */
unsigned int ksm_pass_over_run(struct ksm_batch *batch, unsigned long addr, pte_t *ptep,
			       unsigned long end)
{
	struct resting resting;
	unsigned int nr;

	if (batch->sweeping)
		return sweep_over(batch, addr, end);
	resting = look_at_block(batch, addr, end);
	for (nr = 0; nr < resting.most; nr++) {
		pte_t pte = ptep_get(ptep + nr);

		if (!is_resting(&resting, nr, pte_pfn(pte)) || !pte_present(pte) ||
		    pte_dirty(pte))
			break;
	}
	if (nr && unlikely(!is_calm(batch)))
		nr = before_concerned(batch, addr, 0, ptep, nr);
	note_passed_over(batch, nr);
	return nr;
}

/**
 * ksm_pass_over_run_huge - the same for a part of a huge page that is clean
 * @batch: where the walk is
 * @addr: of the first page
 * @pfn: of the first page
 * @end: where the walk ends
 *
 * Return: how many were passed over.
 */
unsigned int ksm_pass_over_run_huge(struct ksm_batch *batch, unsigned long addr,
				    unsigned long pfn, unsigned long end)
{
	struct resting resting;
	unsigned int nr;

	if (batch->sweeping)
		return sweep_over(batch, addr, end);
	resting = look_at_block(batch, addr, end);
	for (nr = 0; nr < resting.most && is_resting(&resting, nr, pfn + nr); nr++)
		;
	if (nr && unlikely(!is_calm(batch)))
		nr = before_concerned(batch, addr, pfn, NULL, nr);
	note_passed_over(batch, nr);
	return nr;
}
