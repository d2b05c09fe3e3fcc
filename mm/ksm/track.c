// SPDX-License-Identifier: GPL-2.0-only
/*
 * Page records: what is known of each page of a registered mm.
 *
 * Records lie in blocks of KSM_BLOCK_PAGES, one block per aligned stretch of
 * address space, found by address. A page that is only watched costs twelve
 * bytes and its share of the block's index entry; stretches without pages
 * cost nothing. This room knows neither page tables nor forests: what a word
 * points to belongs to others, who must take it back before the record goes.
 */
#include <kunit/static_stub.h>
#include <linux/slab.h>

#include "ksm.h"

static struct kmem_cache *ksm_block_cache __ro_after_init;

/**
 * ksm_track_cache_create - make the cache of blocks
 *
 * Return: 0 or -ENOMEM.
 */
int __init ksm_track_cache_create(void)
{
	ksm_block_cache = kmem_cache_create("ksm_block", sizeof(struct ksm_block), 0, 0, NULL);
	return ksm_block_cache ? 0 : -ENOMEM;
}

static unsigned long block_index(unsigned long addr)
{
	return addr >> (PAGE_SHIFT + KSM_BLOCK_SHIFT);
}

static unsigned int block_slot(unsigned long addr)
{
	return (addr >> PAGE_SHIFT) & (KSM_BLOCK_PAGES - 1);
}

/**
 * ksm_track_init - make an empty set of records
 * @track: to set up
 * @totals: KSM_NR_STATES counters that are kept up with it
 */
void ksm_track_init(struct ksm_track *track, atomic_long_t *totals)
{
	memset(track, 0, sizeof(*track));
	xa_init(&track->blocks);
	track->totals = totals;
}

/**
 * ksm_track_block - the block of an address
 * @track: where
 * @addr: any address
 *
 * Context: the owner's lock held; may be called under a page table lock.
 * Return: the block, or NULL when no page of it was seen.
 */
struct ksm_block *ksm_track_block(struct ksm_track *track, unsigned long addr)
{
	return xa_load(&track->blocks, block_index(addr));
}

/**
 * ksm_track_find - the record of a page, if its block exists
 * @track: where
 * @addr: of the page
 * @rec: result
 *
 * Context: the owner's lock held; may be called under a page table lock.
 * Return: whether @rec was set; the record may be KSM_UNSEEN all the same.
 */
bool ksm_track_find(struct ksm_track *track, unsigned long addr, struct ksm_record *rec)
{
	rec->block = ksm_track_block(track, addr);
	rec->slot = block_slot(addr);
	return rec->block;
}

/**
 * ksm_track_store - put a block into the index
 * @track: where
 * @addr: any address of the block
 * @block: not yet in there
 * @gfp: how to allocate the index's own memory
 *
 * A function of its own so that tests can make it fail.
 *
 * Context: the owner's lock held; sleeps as @gfp allows.
 * Return: 0 or -ENOMEM.
 */
int ksm_track_store(struct ksm_track *track, unsigned long addr, struct ksm_block *block,
		    gfp_t gfp)
{
	KUNIT_STATIC_STUB_REDIRECT(ksm_track_store, track, addr, block, gfp);
	return xa_err(xa_store(&track->blocks, block_index(addr), block, gfp));
}

/**
 * ksm_track_get - the record of a page, made if need be
 * @track: where
 * @addr: of the page
 * @gfp: how to allocate
 * @rec: result
 *
 * Context: the owner's lock held; sleeps as @gfp allows.
 * Return: 0, or -ENOMEM and nothing changed.
 */
int ksm_track_get(struct ksm_track *track, unsigned long addr, gfp_t gfp, struct ksm_record *rec)
{
	struct ksm_block *block;
	int err;

	if (ksm_track_find(track, addr, rec))
		return 0;

	block = ksm_cache_alloc(ksm_block_cache, gfp | __GFP_ZERO);
	if (!block)
		return -ENOMEM;
	err = ksm_track_store(track, addr, block, gfp);
	if (err) {
		ksm_cache_free(ksm_block_cache, block);
		return err;
	}
	track->nr_blocks++;
	rec->block = block;
	return 0;
}

/**
 * ksm_track_set - give a record another state
 * @track: where @rec is
 * @rec: the record
 * @state: the new state
 * @word: goes with @state; ignored for KSM_UNSEEN
 *
 * What the old word pointed to is the caller's to take back. The block stays
 * even when its last record becomes KSM_UNSEEN; see ksm_track_trim().
 *
 * Context: the owner's lock held.
 */
void ksm_track_set(struct ksm_track *track, struct ksm_record rec, enum ksm_state state,
		   union ksm_word word)
{
	enum ksm_state old = ksm_record_state(rec);

	rec.block->word[rec.slot] = word;
	if (old == state)
		return;

	if (state == KSM_UNSEEN)
		rec.block->head[rec.slot] = 0;
	else
		rec.block->head[rec.slot] = (rec.block->head[rec.slot] & ~KSM_STATE_MASK) | state;
	if (old != KSM_UNSEEN) {
		rec.block->used--;
		track->nr[old]--;
		atomic_long_dec(&track->totals[old]);
	}
	if (state != KSM_UNSEEN) {
		rec.block->used++;
		track->nr[state]++;
		atomic_long_inc(&track->totals[state]);
	}
}

/**
 * ksm_track_next - find the first record in use of a range
 * @track: where
 * @addr: from here; on success the address of the record
 * @last: last byte of the range
 * @rec: result
 *
 * Context: the owner's lock held.
 * Return: whether there is one.
 */
bool ksm_track_next(struct ksm_track *track, unsigned long *addr, unsigned long last,
		    struct ksm_record *rec)
{
	unsigned long index = block_index(*addr);
	unsigned int slot = block_slot(*addr);
	struct ksm_block *block;

	xa_for_each_range(&track->blocks, index, block, index, block_index(last)) {
		unsigned long base = index << (PAGE_SHIFT + KSM_BLOCK_SHIFT);

		if (base > *addr)
			slot = 0;
		for (; slot < KSM_BLOCK_PAGES; slot++) {
			unsigned long at = base + ((unsigned long)slot << PAGE_SHIFT);

			if (at > last)
				return false;
			if ((block->head[slot] & KSM_STATE_MASK) == KSM_UNSEEN)
				continue;
			*addr = at;
			rec->block = block;
			rec->slot = slot;
			return true;
		}
		slot = 0;
	}
	return false;
}

/**
 * ksm_track_trim - free the blocks of a range that have no record in use
 * @track: where
 * @addr: first byte of the range; blocks that it only touches count as in it
 * @last: last byte of the range
 *
 * Context: the owner's lock held. Invalidates struct ksm_record of the range.
 */
void ksm_track_trim(struct ksm_track *track, unsigned long addr, unsigned long last)
{
	unsigned long index;
	struct ksm_block *block;

	xa_for_each_range(&track->blocks, index, block, block_index(addr), block_index(last)) {
		if (block->used)
			continue;
		xa_erase(&track->blocks, index);
		ksm_cache_free(ksm_block_cache, block);
		track->nr_blocks--;
	}
}

/**
 * ksm_track_records - how many records are in use
 * @track: where
 *
 * Context: exact with the owner's lock held.
 */
unsigned long ksm_track_records(const struct ksm_track *track)
{
	unsigned long nr = 0;
	enum ksm_state state;

	for (state = KSM_UNSEEN + 1; state < KSM_NR_STATES; state++)
		nr += track->nr[state];
	return nr;
}
