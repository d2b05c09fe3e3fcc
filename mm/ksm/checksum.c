// SPDX-License-Identifier: GPL-2.0-only
/*
 * The keyed checksum of a page.
 *
 * It orders the trees and tells change; it never decides a merge. The secret
 * makes it differ from boot to boot, but xxh64 is no MAC: pages with equal
 * checksums can be built without knowing it. That wastes a bounded amount of work
 * per page (KSM_KEY_TWINS), and can keep other pages with that checksum apart.
 */
#include <linux/hash.h>
#include <linux/highmem.h>
#include <linux/prefetch.h>
#include <linux/random.h>
#include <linux/xxhash.h>

#include "check.h"

u64 ksm_checksum_secret __ro_after_init;
bool ksm_merge_across_nodes = true;

#ifdef CONFIG_KSM_DEBUG
/* Tests clear bits, so that different contents have one checksum. */
u64 ksm_checksum_mask = U64_MAX;

static u64 weaken(u64 sum)
{
	return sum & READ_ONCE(ksm_checksum_mask);
}
#else
static u64 weaken(u64 sum)
{
	return sum;
}
#endif

/* Read ahead so far while as much is hashed. */
#define KSM_CHECKSUM_STRIDE	512

/**
 * ksm_checksum - checksum of one page's bytes
 * @data: PAGE_SIZE bytes
 * @secret: the key
 * @next: will be checksummed next, or NULL; comes into the cache meanwhile
 *
 * The bytes may change meanwhile; the result is then of no particular state.
 *
 * Context: any.
 * Return: the checksum.
 */
u64 ksm_checksum(const void *data, u64 secret, const void *next)
{
	struct xxh64_state state;
	unsigned long at, ahead;

	xxh64_reset(&state, secret);
	for (at = 0; at < PAGE_SIZE; at += KSM_CHECKSUM_STRIDE) {
		for (ahead = 0; next && ahead < KSM_CHECKSUM_STRIDE; ahead += L1_CACHE_BYTES)
			prefetch(next + at + ahead);
		xxh64_update(&state, data + at, KSM_CHECKSUM_STRIDE);
	}
	return xxh64_digest(&state);
}

/**
 * ksm_page_checksum - checksum of a page with this boot's secret
 * @page: on which the caller holds a reference
 * @next: likewise, the page that will be checksummed next, or NULL
 *
 * Context: any.
 * Return: the checksum.
 */
u64 ksm_page_checksum(struct page *page, struct page *next)
{
	const void *ahead = next && !PageHighMem(next) ? page_address(next) : NULL;
	void *data = kmap_local_page(page);
	u64 sum = ksm_checksum(data, ksm_checksum_secret, ahead);

	kunmap_local(data);
	return weaken(sum);
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
 * Return: the key.
 */
u64 ksm_key(u64 sum, int nid)
{
	return READ_ONCE(ksm_merge_across_nodes) ? sum : sum ^ (nid * GOLDEN_RATIO_64);
}

/**
 * ksm_page_key - checksum a page and say what it is filed under
 * @page: on which the caller holds a reference
 * @next: likewise, the page that will be checksummed next, or NULL
 *
 * Context: any.
 * Return: the key.
 */
u64 ksm_page_key(struct page *page, struct page *next)
{
	return ksm_key(ksm_page_checksum(page, next), page_to_nid(page));
}

/**
 * ksm_checksum_init - draw the secret
 */
void __init ksm_checksum_init(void)
{
	ksm_checksum_secret = get_random_u64();
}
