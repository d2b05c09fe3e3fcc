/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Pages that ksmd has passed over for long, as nobody wrote to them: an owner's, and
 * the test's, which are equal to what the owner's may be changed to.
 */
#ifndef KSM_SETTLED_H
#define KSM_SETTLED_H

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include "ksm_numa.h"	/* and vm_util.h, which has no guard: once for each program */
#include "ksm_util.h"
#include "ksm_ways.h"

#define PAGES	64
#define SEED	1000	/* contents of the owner's pages */
#define OTHER	2000000	/* contents of their twins */

/* Page by page, where every fourth is changed. */
#define is_changed(i)	((i) % 4 == 1)

/* After so many passes nothing is left of how pages came to be. */
#define SETTLED_PASSES	6

/*
 * A write that sets the dirty bit of the PTE: the next pass sees it and clears it,
 * the one after that finds it clear, hashes the page and finds its twin.
 */
#define DIRTY_PASSES	2

/*
 * A write through a pin or the kernel's own mapping leaves no trace in the PTE: it
 * is found when the page is refreshed, and in the next pass the page is merged.
 */
#define UNSEEN_PASSES	(KSM_REFRESH_PASSES + 1)

/**
 * struct settled - pages that have no equal ones and are known for long
 * @owner: has pages of content SEED, SEED + 1 and so on
 * @twin: the test's own, of content OTHER, OTHER + 1 and so on
 * @content: not registered: first what @twin holds, then what the owner does
 * @pages: size of each of them
 */
struct settled {
	struct ksm_worker *owner;
	char *twin;
	char *content;
	size_t pages;
};

/**
 * struct settled_way - how a page is changed
 * @job: by its owner, or NULL
 * @write: else, by the test
 */
struct settled_way {
	ksm_job job;
	ksm_way write;
};

static inline char *page(char *map, size_t index)
{
	return map + index * psize();
}

static inline size_t settled_nr_changed(const struct settled *settled)
{
	return settled->pages / 4;
}

static inline long settled_job_store(struct ksm_worker *worker, long to, long content, long unused)
{
	memcpy((char *)to, (char *)content, psize());
	return 0;
}

/* Of a page that is merged meanwhile others have a say, too: it stays. */
static inline bool settled_page_out(char *at)
{
	return ksm_wait_until((madvise(at, psize(), MADV_PAGEOUT), !ksm_pfn(getpid(), at) ||
			       ksm_count_merged(getpid(), at, 1)));
}

static inline bool settled_page_in(char *at)
{
	return *(volatile char *)at >= CHAR_MIN && ksm_pfn(getpid(), at);
}

static inline const char *settled_no_swap(void)
{
	return ksm_meminfo("SwapTotal") > 0 ? NULL : "no swap is on";
}

static inline long job_map_huge(struct ksm_worker *worker, long unused, long unused2, long unused3)
{
	const size_t size = worker->pages * psize();

	worker->map = ksm_map_huge(size);
	return worker->map && ksm_is_huge(worker->map, size) ? 0 : -ENOMEM;
}

/* Says the first of the owner's pages that is wrong, if some were @changed. */
static inline long job_wrong(struct ksm_worker *worker, long changed, long unused, long unused2)
{
	for (size_t i = 0; i < worker->pages; i++) {
		uint64_t content = (changed && is_changed(i) ? OTHER : SEED) + i;

		if (ksm_first_wrong(page(worker->map, i), 1, content, 0) != -1)
			return i;
	}
	return -1;
}

static inline long settled_wrong(struct settled *settled, bool changed)
{
	long twin = ksm_first_wrong(settled->twin, settled->pages, OTHER, 1);

	return twin != -1 ? twin : ksm_ask(settled->owner, job_wrong, changed, 0, 0);
}

/* How many pages that were changed are one with their twin? */
static inline size_t settled_with_twin(struct settled *settled)
{
	size_t count = 0;

	for (size_t i = 0; i < settled->pages; i++) {
		unsigned long pfn = ksm_pfn(getpid(), page(settled->twin, i));

		count += is_changed(i) && pfn &&
			 pfn == ksm_pfn(settled->owner->pid, page(settled->owner->map, i));
	}
	return count;
}

static inline size_t settled_merged(struct settled *settled)
{
	return ksm_count_merged(settled->owner->pid, settled->owner->map, settled->pages);
}

/* Changes pages, or puts back what they held; 0 or what went wrong first. */
static inline long settled_change(struct settled *settled, const struct settled_way *way, bool back)
{
	long error = 0;

	for (size_t i = 0; i < settled->pages && !error; i++) {
		char *to = page(settled->owner->map, i);
		char *content = page(settled->content, i + (back ? settled->pages : 0));

		if (!is_changed(i))
			continue;
		if (way->job)
			error = ksm_ask(settled->owner, way->job, (long)to, (long)content, 0);
		else
			error = way->write(settled->owner, to, content);
	}
	return error;
}

/* 0, or why there are none. Forked before anything is registered. */
static inline int settled_create(struct settled *settled, struct ksm_test *ksm, bool huge)
{
	int error = 0;

	settled->owner = ksm->workers;
	settled->pages = huge ? read_pmd_pagesize() / psize() : PAGES;
	settled->content = ksm_map_pages(2 * settled->pages);
	ksm_fill(settled->content, settled->pages, OTHER, 1);
	ksm_fill(page(settled->content, settled->pages), settled->pages, SEED, 1);
	if (!ksm_fork_worker(ksm, 0, NULL, settled->pages))
		return -ECHILD;
	if (huge)
		error = ksm_ask(settled->owner, job_map_huge, 0, 0, 0);
	error = error ? error : ksm_ask(settled->owner, ksm_job_fill, SEED, 1, 0);
	error = error ? error : ksm_ask(settled->owner, ksm_job_advise, MADV_MERGEABLE, 0, 0);
	settled->twin = ksm_map_registered(settled->pages);
	if (settled->twin)
		ksm_fill(settled->twin, settled->pages, OTHER, 1);
	return settled->twin ? error : -ENOMEM;
}

/* Are all passed over in the end, but those that it is their turn to be refreshed? */
static inline bool settled_rest(struct settled *settled)
{
	const long all = 2 * settled->pages;
	long skipped;

	if (!ksm_pass_by(SETTLED_PASSES))
		return false;
	skipped = ksm_get("pages_skipped");
	return ksm_one_pass() && ksm_get("pages_unshared") == all &&
	       ksm_get("pages_skipped") - skipped >= all - all / KSM_REFRESH_CALM - 2;
}

#endif
