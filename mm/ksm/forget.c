// SPDX-License-Identifier: GPL-2.0-only
/*
 * Forgetting: page records go, and what they own goes with them.
 */
#include <linux/sched.h>

#include "ksm.h"

/* Returns false when a merged folio is locked and @wait is not set. */
static bool take_back(struct ksm_mm *kmm, unsigned long addr, struct ksm_record rec, bool wait)
{
	union ksm_word word = ksm_record_word(rec);

	switch (ksm_record_state(rec)) {
	case KSM_CANDIDATE:
		ksm_unstable_del(word.candidate);
		return true;
	case KSM_MERGED:
		return ksm_site_leave(word.site, kmm->slot.mm, addr, wait);
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
	if (!take_back(kmm, addr, rec, wait))
		return false;
	ksm_track_set(&kmm->track, rec, KSM_UNSEEN, (union ksm_word){});
	return true;
}

static void take_back_waiting(struct ksm_track *track, unsigned long addr, struct ksm_record rec)
{
	take_back(container_of(track, struct ksm_mm, track), addr, rec, true);
	cond_resched();
}

/**
 * ksm_forget_range - forget all records of a range and free its blocks
 * @kmm: whose
 * @start: first byte
 * @last: last byte
 *
 * Context: @kmm locked; sleeps, for locks of merged folios too.
 */
void ksm_forget_range(struct ksm_mm *kmm, unsigned long start, unsigned long last)
{
	ksm_track_forget(&kmm->track, start, last, take_back_waiting);
}
