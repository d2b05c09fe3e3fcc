// SPDX-License-Identifier: GPL-2.0-only
/*
 * The keyed checksum of a page.
 *
 * It orders the trees and tells change; it never decides a merge. The secret
 * keeps a process from choosing contents that crowd one key from outside. Who
 * learns the secret all the same can at worst waste a bounded amount of work
 * per page (KSM_KEY_TWINS).
 */
#include <linux/hash.h>
#include <linux/highmem.h>
#include <linux/random.h>
#include <linux/xxhash.h>

#include "ksm.h"

u64 ksm_checksum_secret __ro_after_init;
bool ksm_merge_across_nodes = true;

/**
 * ksm_checksum - checksum of one page's bytes
 * @data: PAGE_SIZE bytes
 * @secret: the key
 *
 * The bytes may change meanwhile; the result is then of no particular state.
 *
 * Context: any.
 */
u64 ksm_checksum(const void *data, u64 secret)
{
	return xxh64(data, PAGE_SIZE, secret);
}

/**
 * ksm_page_checksum - checksum of a page with this boot's secret
 * @page: on which the caller holds a reference
 *
 * Context: any.
 */
u64 ksm_page_checksum(struct page *page)
{
	void *data = kmap_local_page(page);
	u64 sum = ksm_checksum(data, ksm_checksum_secret);

	kunmap_local(data);
	return sum;
}

/**
 * ksm_key - what a page with a checksum is filed under
 * @sum: checksum of its contents
 * @nid: its NUMA node
 *
 * Without merging across nodes the same contents have another key on each
 * node, so that pages of different nodes never meet. Applied to a key, this
 * gives the checksum back.
 *
 * Context: any; merge_across_nodes must not change between the two.
 */
u64 ksm_key(u64 sum, int nid)
{
	return READ_ONCE(ksm_merge_across_nodes) ? sum : sum ^ (nid * GOLDEN_RATIO_64);
}

/**
 * ksm_page_key - checksum a page and say what it is filed under
 * @page: on which the caller holds a reference
 *
 * Context: any.
 */
u64 ksm_page_key(struct page *page)
{
	return ksm_key(ksm_page_checksum(page), page_to_nid(page));
}

/**
 * ksm_checksum_init - draw the secret
 */
void __init ksm_checksum_init(void)
{
	ksm_checksum_secret = get_random_u64();
}
