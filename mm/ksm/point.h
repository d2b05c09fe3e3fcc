/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Points where a debug kernel widens windows between two steps: it waits there, or
 * pretends that something failed, at random. Off until somebody writes to ksm/points in
 * debugfs, and off at the cost of a static key.
 */
#ifndef _MM_KSM_POINT_H
#define _MM_KSM_POINT_H

#include <linux/jump_label.h>
#include <linux/types.h>

/**
 * enum ksm_point - places in the engine
 * @KSM_POINT_BATCH_FULL: the walk asks whether the batch is full: may say yes
 * @KSM_POINT_LOCK_MM: before an mm's mmap_lock is tried for: may fail
 * @KSM_POINT_LOCK_FOLIO: before a folio's lock is tried for: may fail
 * @KSM_POINT_LOCK_ANON_VMA: before an anon_vma's lock is tried for: may fail
 * @KSM_POINT_ALLOC: before metadata is allocated: may fail
 * @KSM_POINT_LOOK: between a PTE that was read and what is done about it; atomic
 * @KSM_POINT_PTE_TAKEN: a PTE is away, references are to be counted; atomic
 * @KSM_POINT_STABLE_GET: a node's folio is known, and no reference on it held; atomic
 * @KSM_POINT_MIGRATE: a merged folio's mappings have moved, its node's PFN has not; atomic
 * @KSM_POINT_COLLECTED: pages of a batch are collected, not hashed
 * @KSM_POINT_HASHED: they are hashed, not filed
 * @KSM_POINT_UNLOCKED: an mm's locks are given up, its pairs not seen to
 * @KSM_POINT_PROMOTED: partners are promoted, their pairs not merged
 * @KSM_POINT_PROTECTED: a candidate is write-protected, and no merged folio yet
 * @KSM_POINT_ATTACHED: a site is attached, and the PTE not exchanged
 * @KSM_POINT_SWAPIN: a copy is to be made on swap-in
 * @KSM_POINT_FORK: a child is about to be registered
 * @KSM_POINT_EXIT: an mm is about to leave
 * @KSM_POINT_UNMERGE: places that share pages are found, not unmerged
 * @KSM_POINT_PRUNE: a node with heirs is found, its folio not locked
 * @KSM_NR_POINTS: how many there are
 */
enum ksm_point {
	KSM_POINT_BATCH_FULL,
	KSM_POINT_LOCK_MM,
	KSM_POINT_LOCK_FOLIO,
	KSM_POINT_LOCK_ANON_VMA,
	KSM_POINT_ALLOC,
	KSM_POINT_LOOK,
	KSM_POINT_PTE_TAKEN,
	KSM_POINT_STABLE_GET,
	KSM_POINT_MIGRATE,
	KSM_POINT_COLLECTED,
	KSM_POINT_HASHED,
	KSM_POINT_UNLOCKED,
	KSM_POINT_PROMOTED,
	KSM_POINT_PROTECTED,
	KSM_POINT_ATTACHED,
	KSM_POINT_SWAPIN,
	KSM_POINT_FORK,
	KSM_POINT_EXIT,
	KSM_POINT_UNMERGE,
	KSM_POINT_PRUNE,
	KSM_NR_POINTS,
};

#ifdef CONFIG_KSM_DEBUG
DECLARE_STATIC_KEY_FALSE(ksm_points_on);

bool __ksm_point_acts(enum ksm_point point);
void __ksm_point_spin(enum ksm_point point);
void __ksm_point_sleep(enum ksm_point point);

/**
 * ksm_point_fails - whether a step that may fail is to fail
 * @point: where
 *
 * Context: any.
 * Return: true at random if points are on.
 */
static inline bool ksm_point_fails(enum ksm_point point)
{
	return static_branch_unlikely(&ksm_points_on) && __ksm_point_acts(point);
}

/**
 * ksm_point_spin - wait for some microseconds, at random, if points are on
 * @point: where
 *
 * Context: any.
 */
static inline void ksm_point_spin(enum ksm_point point)
{
	if (static_branch_unlikely(&ksm_points_on))
		__ksm_point_spin(point);
}

/**
 * ksm_point_sleep - let others run for a while, at random, if points are on
 * @point: where
 *
 * Context: sleeps.
 */
static inline void ksm_point_sleep(enum ksm_point point)
{
	if (static_branch_unlikely(&ksm_points_on))
		__ksm_point_sleep(point);
}

void ksm_point_init(struct dentry *dir);
#else
static inline bool ksm_point_fails(enum ksm_point point)
{
	return false;
}

static inline void ksm_point_spin(enum ksm_point point)
{
}

static inline void ksm_point_sleep(enum ksm_point point)
{
}

static inline void ksm_point_init(struct dentry *dir)
{
}
#endif

#endif /* _MM_KSM_POINT_H */
