// SPDX-License-Identifier: GPL-2.0-only
/*
 * Forgetting: page records go, and what they own goes with them.
 */
#include "ksm.h"

/* Returns false when a merged folio is locked and @leaving does not wait. */
static bool take_back(unsigned long addr, struct ksm_record rec, struct ksm_leaving *leaving)
{
	union ksm_word word = ksm_record_word(rec);

	switch (ksm_record_state(rec)) {
	case KSM_CANDIDATE:
		ksm_unstable_del(word.candidate);
		return true;
	case KSM_MERGED:
		return ksm_site_leave(leaving, word.site, addr);
	default:
		return true;
	}
}

/**
 * ksm_forget_record - make a page record know nothing
 * @kmm: whose
 * @addr: of the page
 * @rec: the record
 * @wait: whether to sleep for the lock of a merged folio
 *
 * Context: @kmm locked; sleeps if @wait.
 * Return: false when a merged folio is locked and @wait is not set; nothing
 * changed.
 */
bool ksm_forget_record(struct ksm_mm *kmm, unsigned long addr, struct ksm_record rec, bool wait)
{
	struct ksm_leaving leaving = { .mm = kmm->slot.mm, .wait = wait };

	if (!take_back(addr, rec, &leaving))
		return false;
	ksm_track_set(&kmm->track, rec, KSM_UNSEEN, (union ksm_word){});
	return true;
}

/**
 * ksm_replace_record - make a page record know something else of its page
 * @kmm: whose
 * @addr: of the page
 * @rec: the record; it keeps its level
 * @state: what it knows
 * @word: goes with @state
 *
 * Context: @kmm locked; does not sleep.
 * Return: false when a merged folio is locked; nothing changed.
 */
bool ksm_replace_record(struct ksm_mm *kmm, unsigned long addr, struct ksm_record rec,
			enum ksm_state state, union ksm_word word)
{
	unsigned int level = ksm_record_level(rec);

	if (!ksm_forget_record(kmm, addr, rec, false))
		return false;
	ksm_track_set(&kmm->track, rec, state, word);
	ksm_record_set_level(rec, level);
	return true;
}

static bool take_back_all(struct ksm_track *track, unsigned long addr, struct ksm_record rec,
			  void *leaving)
{
	take_back(addr, rec, leaving);
	return true;
}

static bool leave_merged(struct ksm_track *track, unsigned long addr, struct ksm_record rec,
			 void *leaving)
{
	return ksm_record_state(rec) != KSM_MERGED && take_back_all(track, addr, rec, leaving);
}

/**
 * ksm_forget_range - forget all records of a range and free its blocks
 * @kmm: whose
 * @start: first byte
 * @last: last byte
 *
 * Context: @kmm locked, and its mmap_lock unless it is gone or about to exit; sleeps,
 * for locks of merged folios too.
 */
void ksm_forget_range(struct ksm_mm *kmm, unsigned long start, unsigned long last)
{
	struct ksm_site *gone[KSM_LEAVING];
	struct ksm_leaving leaving = { .mm = kmm->slot.mm, .wait = true, .gone = gone };

	ksm_track_forget(&kmm->track, start, last, take_back_all, &leaving);
	ksm_sites_left(&leaving);
}

/**
 * ksm_forget_but_merged - forget all records but those of merged pages
 * @kmm: whose
 *
 * Context: @kmm locked; sleeps.
 */
void ksm_forget_but_merged(struct ksm_mm *kmm)
{
	ksm_track_forget(&kmm->track, 0, ULONG_MAX, leave_merged, NULL);
}
