// SPDX-License-Identifier: GPL-2.0-only
/*
 * Counters, and what merging is worth: for the system and for a process.
 */
#include <kunit/static_stub.h>
#include <linux/slab.h>

#include "ksm.h"

#define CREATE_TRACE_POINTS
#include <trace/events/ksm.h>

struct ksm_stat ksm_stat;
atomic_long_t ksm_zero_pages = ATOMIC_LONG_INIT(0);

/**
 * ksm_cache_alloc - allocate metadata, and count its bytes
 * @cache: of which kind
 * @gfp: how
 *
 * Return: the object, or NULL.
 */
void *ksm_cache_alloc(struct kmem_cache *cache, gfp_t gfp)
{
	void *object;

	KUNIT_STATIC_STUB_REDIRECT(ksm_cache_alloc, cache, gfp);
	if (!gfpflags_allow_blocking(gfp) && ksm_point_fails(KSM_POINT_ALLOC))
		return NULL;
	object = kmem_cache_alloc(cache, gfp);
	if (object)
		atomic_long_add(kmem_cache_size(cache), &ksm_stat.bytes);
	return object;
}

/**
 * ksm_cache_free - undo ksm_cache_alloc()
 * @cache: of which kind
 * @object: not NULL
 */
void ksm_cache_free(struct kmem_cache *cache, void *object)
{
	KUNIT_STATIC_STUB_REDIRECT(ksm_cache_free, cache, object);
	atomic_long_sub(kmem_cache_size(cache), &ksm_stat.bytes);
	kmem_cache_free(cache, object);
}

/**
 * ksm_cache_free_bulk - free several objects
 * @cache: of which kind
 * @nr: how many
 * @objects: none of them NULL
 */
void ksm_cache_free_bulk(struct kmem_cache *cache, unsigned int nr, void **objects)
{
	atomic_long_sub((unsigned long)nr * kmem_cache_size(cache), &ksm_stat.bytes);
	kmem_cache_free_bulk(cache, nr, objects);
}

/**
 * ksm_stat_records - page records in use
 *
 * Return: their number.
 */
long ksm_stat_records(void)
{
	enum ksm_state state;
	long nr = 0;

	for (state = KSM_UNSEEN + 1; state < KSM_NR_STATES; state++)
		nr += atomic_long_read(&ksm_stat.records[state]);
	return nr;
}

/**
 * ksm_stat_sharing - pages saved: sites beyond the first of each merged folio
 *
 * A merge under way has its site already, and loses it if the pages differ.
 *
 * Return: their number.
 */
long ksm_stat_sharing(void)
{
	long sites = atomic_long_read(&ksm_stat.records[KSM_MERGED]);

	/* Read one after the other while they move: never below zero. */
	return max(sites - atomic_long_read(&ksm_stat.shared), 0L);
}

/**
 * ksm_stat_unshared - pages that stayed the same and have no equal one so far
 *
 * Return: their number.
 */
long ksm_stat_unshared(void)
{
	return atomic_long_read(&ksm_stat.records[KSM_SETTLED]) +
	       atomic_long_read(&ksm_stat.records[KSM_CANDIDATE]);
}

/**
 * ksm_stat_volatile - pages that are new or change too fast to be candidates
 *
 * Return: their number.
 */
long ksm_stat_volatile(void)
{
	return atomic_long_read(&ksm_stat.records[KSM_HASHED]) +
	       atomic_long_read(&ksm_stat.records[KSM_CLEANED]);
}

/**
 * ksm_stat_profit - bytes saved less bytes of metadata; may be negative
 *
 * Return: bytes.
 */
long ksm_stat_profit(void)
{
	return (ksm_stat_sharing() + atomic_long_read(&ksm_zero_pages)) * PAGE_SIZE -
	       atomic_long_read(&ksm_stat.bytes);
}

/**
 * ksm_process_profit - bytes that merging saves a process, less its metadata
 * @mm: the process's
 *
 * All its merged pages count as saved, the one copy that somebody keeps too.
 *
 * Context: any; takes no lock of the mm, so the parts may be of different age.
 * Return: bytes; negative where metadata outweighs them.
 */
long ksm_process_profit(struct mm_struct *mm)
{
	long bytes = (READ_ONCE(mm->ksm_merging_pages) + mm_ksm_zero_pages(mm)) * PAGE_SIZE;
	struct ksm_mm *kmm = ksm_mm_find(mm);

	if (!kmm)
		return bytes;
	bytes -= sizeof(*kmm);
	bytes -= READ_ONCE(kmm->track.bytes);
	bytes -= READ_ONCE(kmm->track.nr[KSM_CANDIDATE]) * sizeof(struct ksm_candidate);
	bytes -= READ_ONCE(kmm->track.nr[KSM_MERGED]) * sizeof(struct ksm_site);
	ksm_mm_put(kmm);
	return bytes;
}

static int __init ksm_init(void)
{
	int err;

	ksm_checksum_init();
	ksm_zero_init();
	ksm_track_cache_create();
	ksm_registry_init();
	ksm_unstable_init();
	ksm_stable_init();
	ksm_site_init();
	err = ksm_scan_init();
	err = err ?: ksm_sysfs_init();
	if (err)
		pr_err("ksm: no memory for samepage merging: %d\n", err);
	return err;
}
subsys_initcall(ksm_init);
