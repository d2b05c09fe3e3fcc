// SPDX-License-Identifier: GPL-2.0-only
/*
 * Candidates: pages that stayed the same for a pass and wait for a partner.
 *
 * The unstable forest holds their keys and lives on from pass to pass. A
 * candidate's page may change or vanish at any time; its node stays in order
 * all the same and is a hint that is checked before it is used.
 *
 * A candidate belongs to a page record and is made and freed under the lock of
 * that record's mm. A finder in another mm sees it under the lock of its tree
 * only, and takes a reference on the registered mm with it.
 */
#include <linux/slab.h>

#include "check.h"

static struct ksm_forest unstable;
static struct kmem_cache *ksm_candidate_cache __ro_after_init;

/**
 * ksm_unstable_init - make the cache of candidates
 */
void __init ksm_unstable_init(void)
{
	ksm_candidate_cache = kmem_cache_create("ksm_candidate", sizeof(struct ksm_candidate),
						0, SLAB_PANIC, NULL);
}

/**
 * ksm_unstable_prepare - there will be pages to look for
 *
 * Context: sleeps.
 * Return: 0 or -ENOMEM.
 */
int ksm_unstable_prepare(void)
{
	return ksm_forest_alloc(&unstable);
}

#ifdef CONFIG_KSM_DEBUG
/**
 * ksm_unstable_forest - the forest of candidates
 *
 * Return: the forest.
 */
const struct ksm_forest *ksm_unstable_forest(void)
{
	return &unstable;
}
#endif

static struct ksm_candidate *to_candidate(struct ksm_node *node)
{
	return container_of(node, struct ksm_candidate, node);
}

/**
 * ksm_unstable_prefetch - say that a partner will be looked for soon
 * @key: checksum of the page
 */
void ksm_unstable_prefetch(u64 key)
{
	ksm_forest_prefetch(&unstable, key);
}

/**
 * ksm_unstable_find - find a partner for a page
 * @key: checksum of the page
 * @kmm: whose page
 * @addr: where; the page is no partner of itself
 * @partner: result, with a reference on its mm for ksm_mm_put()
 *
 * Context: ksm_control held; no lock of a tree held.
 * Return: whether there is one.
 */
bool ksm_unstable_find(u64 key, const struct ksm_mm *kmm, unsigned long addr,
		       struct ksm_partner *partner)
{
	struct ksm_root *root = ksm_forest_root(&unstable, key);
	struct ksm_node *node;

	partner->busy = false;
	guard(spinlock)(&root->lock);
	for (node = ksm_root_find(root, key); node; node = ksm_node_next_equal(node)) {
		struct ksm_candidate *candidate = to_candidate(node);

		if (candidate->kmm == kmm && candidate->addr == addr)
			continue;
		/* Who cannot be had now must not keep others apart. */
		if (candidate->kmm->busy) {
			partner->busy |= ksm_mm_regarded(candidate->kmm);
			continue;
		}
		/* The candidate is in being, so its record and its mm are. */
		ksm_mm_get(candidate->kmm);
		partner->kmm = candidate->kmm;
		partner->addr = candidate->addr;
		return true;
	}
	return false;
}

static bool key_crowded(struct ksm_root *root, u64 key)
{
	struct ksm_node *node;
	unsigned int nr = 0;

	for (node = ksm_root_find(root, key); node; node = ksm_node_next_equal(node))
		if (++nr >= KSM_KEY_TWINS)
			return true;
	return false;
}

/**
 * ksm_unstable_add - make a page a candidate
 * @kmm: whose page
 * @addr: where
 * @rec: its record, which owns nothing
 * @key: its checksum
 *
 * Context: @kmm locked; does not sleep.
 * Return: 0; -ENOMEM, or -ENOSPC when the key is crowded, and nothing changed.
 */
int ksm_unstable_add(struct ksm_mm *kmm, unsigned long addr, struct ksm_record rec, u64 key)
{
	struct ksm_root *root = ksm_forest_root(&unstable, key);
	struct ksm_candidate *candidate;

	candidate = ksm_cache_alloc(ksm_candidate_cache, KSM_GFP);
	if (!candidate)
		return -ENOMEM;
	candidate->node.key = key;
	candidate->kmm = kmm;
	candidate->addr = addr;
	candidate->filed = ksm_whole_passes;

	spin_lock(&root->lock);
	if (key_crowded(root, key)) {
		spin_unlock(&root->lock);
		ksm_cache_free(ksm_candidate_cache, candidate);
		return -ENOSPC;
	}
	ksm_root_insert(root, &candidate->node);
	spin_unlock(&root->lock);

	ksm_track_set(&kmm->track, rec, KSM_CANDIDATE,
		      (union ksm_word){ .candidate = candidate });
	return 0;
}

/**
 * ksm_unstable_del - take a candidate back
 * @candidate: no longer owned by its record, or about to be
 *
 * Context: the candidate's mm locked.
 */
void ksm_unstable_del(struct ksm_candidate *candidate)
{
	struct ksm_root *root = ksm_forest_root(&unstable, candidate->node.key);

	scoped_guard(spinlock, &root->lock)
		ksm_root_erase(root, &candidate->node);
	ksm_cache_free(ksm_candidate_cache, candidate);
}

/**
 * ksm_unstable_settle - a candidate found no partner: its page is a settled one
 * @kmm: whose page
 * @rec: its record, KSM_CANDIDATE
 *
 * Context: @kmm locked; does not sleep.
 */
void ksm_unstable_settle(struct ksm_mm *kmm, struct ksm_record rec)
{
	struct ksm_candidate *candidate = ksm_record_word(rec).candidate;
	u64 key = candidate->node.key;

	ksm_unstable_del(candidate);
	ksm_track_set(&kmm->track, rec, KSM_SETTLED, (union ksm_word){ .key = key });
}
