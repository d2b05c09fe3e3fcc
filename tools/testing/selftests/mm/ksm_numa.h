/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the ksm_* tests that care for NUMA nodes share: memory on a node of one's
 * choice, the node that a page is on, and whether all counters are back at zero.
 */
#ifndef KSM_NUMA_H
#define KSM_NUMA_H

#include <errno.h>
#include <linux/mempolicy.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "ksm_util.h"
#include "vm_util.h"	/* has no guard: whoever includes this must not include it again */

/* The nodes that fit into one word; one bit less, as mbind() wants it. */
#define KSM_MAX_NODES	(8 * (int)sizeof(unsigned long) - 1)

static inline long ksm_bind(char *map, size_t pages, int node, unsigned int flags)
{
	unsigned long mask = 1UL << node;

	return syscall(SYS_mbind, map, pages * psize(), MPOL_BIND, &mask, 8 * sizeof(mask), flags);
}

/* The first two nodes that memory can be bound to; false if there are not so many. */
static inline bool ksm_find_two_nodes(int node[2])
{
	char *map = ksm_map_pages(1);
	unsigned int found = 0;

	if (!map)
		return false;
	for (int i = 0; i < KSM_MAX_NODES && found < 2; i++)
		if (!ksm_bind(map, 1, i, 0))
			node[found++] = i;
	munmap(map, psize());
	return found == 2;
}

/* The node of the page that is mapped here, or -errno. */
static inline int ksm_node_of(char *addr)
{
	void *page = addr;
	int status;

	if (syscall(SYS_move_pages, 0, 1, &page, NULL, &status, 0))
		return -ENODEV;
	return status;
}

static inline size_t ksm_count_on(char *map, size_t pages, int node)
{
	size_t count = 0;

	for (size_t i = 0; i < pages; i++)
		count += ksm_node_of(map + i * psize()) == node;
	return count;
}

/* How many pages of the caller's are one frame with the page at the same place there? */
static inline size_t ksm_count_shared(char *a, char *b, size_t pages)
{
	size_t count = 0;

	for (size_t i = 0; i < pages; i++) {
		unsigned long pfn = ksm_pfn(getpid(), a + i * psize());

		count += pfn && pfn == ksm_pfn(getpid(), b + i * psize());
	}
	return count;
}

/* Whether KSM knows of no page at all; says which counter says else. */
static inline bool ksm_counters_are_zero(void)
{
	static const char * const names[] = {
		"pages_shared", "pages_sharing", "pages_unshared", "pages_volatile",
		"ksm_zero_pages", "stable_node_chains", "stable_node_dups",
	};
	bool zero = true;

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		long value = ksm_get(names[i]);

		if (value == 0 || value == KSM_NONE)
			continue;
		fprintf(stderr, "# %s is %ld\n", names[i], value);
		zero = false;
	}
	return zero;
}

#endif
