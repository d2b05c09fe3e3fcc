/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the suites of the page records have in common.
 *
 * Blocks are allocated and freed through stubs that count them, so that a lost
 * block is seen, and that can be told to fail.
 */
#ifndef _MM_KSM_TESTS_TRACK_TEST_H
#define _MM_KSM_TESTS_TRACK_TEST_H

#include <kunit/test.h>

#include "../ksm.h"

#define LAST_PAGE	(ULONG_MAX & PAGE_MASK)

/**
 * struct track_test - test->priv of these suites
 * @track: empty at first; all its blocks are freed at the end
 * @totals: of @track
 * @nr_live: blocks allocated and not freed, those of other tracks too
 * @no_memory: no block can be allocated
 * @gfp: flags of the last allocation tried
 */
struct track_test {
	struct ksm_track track;
	atomic_long_t totals[KSM_NR_STATES];
	unsigned long nr_live;
	bool no_memory;
	gfp_t gfp;
};

static inline unsigned long nth_page(unsigned long n)
{
	return n << PAGE_SHIFT;
}

int ksm_track_test_init(struct kunit *test);
void ksm_track_test_exit(struct kunit *test);
int ksm_get_without_memory(struct kunit *test, unsigned long addr, bool store,
			   struct ksm_record *rec);

#endif /* _MM_KSM_TESTS_TRACK_TEST_H */
