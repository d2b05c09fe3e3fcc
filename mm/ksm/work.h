/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Counters of the work of the engine, for those who look whether it does what
 * it should and no more. Without debugfs nothing is counted.
 */
#ifndef _MM_KSM_WORK_H
#define _MM_KSM_WORK_H

#include <linux/atomic.h>

/**
 * enum ksm_work - what is counted
 * @KSM_WORK_HASHED: pages hashed
 * @KSM_WORK_STEPS: nodes met on the way down trees of the forests
 * @KSM_WORK_COMPARED: pairs of pages compared with all their bytes
 * @KSM_WORK_HANDED_OVER: dirty bits handed over to the folio, one for a huge page
 * @KSM_NR_WORK: how many counters there are
 */
enum ksm_work {
	KSM_WORK_HASHED,
	KSM_WORK_STEPS,
	KSM_WORK_COMPARED,
	KSM_WORK_HANDED_OVER,
	KSM_NR_WORK,
};

#ifdef CONFIG_DEBUG_FS
extern atomic_long_t ksm_work[KSM_NR_WORK];
#endif

/**
 * ksm_work_add - work was done
 * @what: of which kind
 * @nr: how much; sums are added once, where there is a loop
 *
 * Context: any.
 */
static inline void ksm_work_add(enum ksm_work what, unsigned long nr)
{
#ifdef CONFIG_DEBUG_FS
	if (nr)
		atomic_long_add(nr, &ksm_work[what]);
#endif
}

#endif /* _MM_KSM_WORK_H */
