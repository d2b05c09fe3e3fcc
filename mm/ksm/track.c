// SPDX-License-Identifier: GPL-2.0-only
/*
 * Page records: what is known of each page of a registered mm.
 *
 * Records lie in blocks, one per aligned stretch of KSM_BLOCK_PAGES, found by
 * address. A page that is only watched costs twelve bytes and its share of the
 * block's index entry; stretches without pages cost nothing, and where few pages
 * are present the block has room for few records. This file knows neither page
 * tables nor forests: what a word points to belongs to others, who must take it
 * back before the record goes.
 */
#include <kunit/static_stub.h>
#include <linux/bitops.h>
#include <linux/prefetch.h>
#include <linux/slab.h>

#include "check.h"

/* Blocks gone over between two chances for others to run. */
#define TRIM_BLOCKS	4096
/* Likewise where their records are counted, too. */
#define FORGET_BLOCKS	16

/* The sizes of blocks: records that there is room for. */
static const u8 block_rooms[] = { 4, 16, KSM_BLOCK_PAGES };

static struct kmem_cache *block_caches[ARRAY_SIZE(block_rooms)] __ro_after_init;

/**
 * ksm_block_bytes - what a block takes
 * @room: for so many records
 *
 * Return: bytes.
 */
unsigned int ksm_block_bytes(unsigned int room)
{
	return sizeof(struct ksm_block) + room * (sizeof(union ksm_word) + sizeof(u32));
}

/**
 * ksm_track_cache_create - make the caches of blocks
 */
void __init ksm_track_cache_create(void)
{
	static const char *const names[] = { "ksm_block_4", "ksm_block_16", "ksm_block" };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(block_rooms); i++)
		block_caches[i] = kmem_cache_create(names[i], ksm_block_bytes(block_rooms[i]), 0,
						    SLAB_PANIC, NULL);
}

static unsigned long block_index(unsigned long addr)
{
	return addr >> (PAGE_SHIFT + KSM_BLOCK_SHIFT);
}

static unsigned int page_in_block(unsigned long addr)
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
 * ksm_track_prefetch - say that the first halves of a block's records will be read soon
 * @block: the block, or NULL
 */
void ksm_track_prefetch(const struct ksm_block *block)
{
	const char *at, *end;

	if (!block)
		return;
	at = (const char *)(block->word + KSM_BLOCK_PAGES);
	end = (const char *)block + ksm_block_bytes(KSM_BLOCK_PAGES);
	/* Reading how much room it has would be what this is to avoid. */
	prefetch(block);
	for (; at < end; at += L1_CACHE_BYTES)
		prefetch(at);
}

/**
 * ksm_track_find - the record of a page, if there is one
 * @track: where
 * @addr: of the page
 * @rec: result
 *
 * Context: the owner's lock held; may be called under a page table lock.
 * Return: whether @rec was set; the record may be KSM_UNSEEN all the same.
 */
bool ksm_track_find(struct ksm_track *track, unsigned long addr, struct ksm_record *rec)
{
	return ksm_block_find(ksm_track_block(track, addr), addr, rec);
}

/**
 * ksm_track_store - put a block into the index
 * @track: where
 * @addr: any address of the block
 * @block: instead of the one that is there, if any
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

/* The smallest size with room for @records; the last one has room for all. */
static unsigned int size_for(unsigned int records)
{
	unsigned int size = 0;

	while (size < ARRAY_SIZE(block_rooms) - 1 && block_rooms[size] < records)
		size++;
	return size;
}

static struct ksm_block *alloc_block(struct ksm_track *track, unsigned int size, gfp_t gfp)
{
	struct ksm_block *block = ksm_cache_alloc(block_caches[size], gfp | __GFP_ZERO);

	if (!block)
		return NULL;
	block->room = block_rooms[size];
	if (block->room == KSM_BLOCK_PAGES)
		block->map = U64_MAX;
	track->nr_blocks++;
	track->bytes += ksm_block_bytes(block->room);
	return block;
}

static void free_block(struct ksm_track *track, struct ksm_block *block)
{
	unsigned int size = size_for(block->room);

	track->nr_blocks--;
	track->bytes -= ksm_block_bytes(block->room);
	ksm_cache_free(block_caches[size], block);
}

/* Adds an unseen record of the nth page to a block that has room; returns its slot. */
static unsigned int add_record(struct ksm_block *block, unsigned int nth)
{
	unsigned int nr = hweight64(block->map), slot = hweight64(block->map & (BIT_ULL(nth) - 1));
	u32 *heads = ksm_block_heads(block);

	if (block->room == KSM_BLOCK_PAGES)
		return nth;
	memmove(&block->word[slot + 1], &block->word[slot], (nr - slot) * sizeof(block->word[0]));
	memmove(&heads[slot + 1], &heads[slot], (nr - slot) * sizeof(heads[0]));
	heads[slot] = KSM_UNSEEN;
	block->map |= BIT_ULL(nth);
	return slot;
}

/* Records in use go over to a block that has room for one more than these. */
static struct ksm_block *remake_block(struct ksm_track *track, unsigned long addr,
				      struct ksm_block *old, gfp_t gfp)
{
	struct ksm_block *block;
	unsigned int to, from = 0;
	u64 left;

	block = alloc_block(track, old ? size_for(old->used + 1) : 0, gfp);
	if (!block)
		return NULL;
	if (ksm_track_store(track, addr, block, gfp)) {
		free_block(track, block);
		return NULL;
	}
	if (!old)
		return block;
	for (left = old->map; left; left &= left - 1, from++) {
		u32 head = ksm_block_heads(old)[from];

		if ((head & KSM_STATE_MASK) == KSM_UNSEEN)
			continue;
		to = add_record(block, __ffs64(left));
		block->word[to] = old->word[from];
		ksm_block_heads(block)[to] = head;
	}
	block->used = old->used;
	block->quiet = old->quiet;
	block->level = old->level;
	block->since = old->since;
	free_block(track, old);
	return block;
}

/**
 * ksm_track_get - the record of a page, made if need be
 * @track: where
 * @addr: of the page
 * @gfp: how to allocate
 * @rec: result
 *
 * Context: the owner's lock held; sleeps as @gfp allows. Invalidates all other
 * struct ksm_record of the block, and pointers to the block, if it makes one.
 * Return: 0, or -ENOMEM and nothing changed.
 */
int ksm_track_get(struct ksm_track *track, unsigned long addr, gfp_t gfp, struct ksm_record *rec)
{
	struct ksm_block *block = ksm_track_block(track, addr);

	if (ksm_block_find(block, addr, rec))
		return 0;
	if (!block || hweight64(block->map) == block->room)
		block = remake_block(track, addr, block, gfp);
	if (!block)
		return -ENOMEM;
	rec->block = block;
	rec->slot = add_record(block, page_in_block(addr));
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
	u32 *head = &ksm_block_heads(rec.block)[rec.slot];
	enum ksm_state old = *head & KSM_STATE_MASK;

	rec.block->word[rec.slot] = word;
	if (old == state)
		return;

	*head = state == KSM_UNSEEN ? 0 : (*head & ~KSM_STATE_MASK) | state;
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

static bool next_in_block(struct ksm_block *block, unsigned long base, unsigned long *addr,
			  unsigned long last, struct ksm_record *rec)
{
	unsigned int first = base < *addr ? page_in_block(*addr) : 0;
	u64 left = block->map & (U64_MAX << first);

	for (; left; left &= left - 1) {
		unsigned long at = base + ((unsigned long)__ffs64(left) << PAGE_SHIFT);

		if (at > last)
			return false;
		ksm_block_find(block, at, rec);
		if (ksm_record_state(*rec) == KSM_UNSEEN)
			continue;
		*addr = at;
		return true;
	}
	return false;
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
	struct ksm_block *block;

	xa_for_each_range(&track->blocks, index, block, index, block_index(last)) {
		if (next_in_block(block, index << (PAGE_SHIFT + KSM_BLOCK_SHIFT), addr, last, rec))
			return true;
	}
	return false;
}

/**
 * ksm_track_trim - free the blocks of a range that have no record in use
 * @track: where
 * @addr: first byte of the range; blocks that it only touches count as in it
 * @last: last byte of the range
 *
 * Context: the owner's lock held; may sleep. Invalidates struct ksm_record of the range.
 */
void ksm_track_trim(struct ksm_track *track, unsigned long addr, unsigned long last)
{
	unsigned int visited = 0;
	unsigned long index;
	struct ksm_block *block;

	xa_for_each_range(&track->blocks, index, block, block_index(addr), block_index(last)) {
		/* Seldom: who waits for this mm's locks shall not do so for a nap of ours. */
		if (!(++visited % TRIM_BLOCKS))
			cond_resched();
		if (block->used)
			continue;
		xa_erase(&track->blocks, index);
		free_block(track, block);
	}
}

/* Which page the record in a slot is of. */
static unsigned int page_in_slot(const struct ksm_block *block, unsigned int slot)
{
	u64 left = block->map;

	if (block->room == KSM_BLOCK_PAGES)
		return slot;
	while (slot--)
		left &= left - 1;
	return __ffs64(left);
}

static bool owns_something(enum ksm_state state)
{
	return state == KSM_CANDIDATE || state == KSM_MERGED;
}

/*
 * Forgets the records in slots @from to @end - 1, but for those that stay, and adds to @nr
 * what their states were.
 */
static void forget_slots(struct ksm_track *track, struct ksm_block *block, unsigned long base,
			 unsigned int from, unsigned int end, ksm_take_back_fn *take_back,
			 void *arg, unsigned long nr[KSM_NR_STATES])
{
	u32 *heads = ksm_block_heads(block);
	unsigned int slot;

	for (slot = from; slot < end; slot++) {
		enum ksm_state state = heads[slot] & KSM_STATE_MASK;

		if (state == KSM_UNSEEN)
			continue;
		if (owns_something(state)) {
			unsigned long addr = base + page_in_slot(block, slot) * PAGE_SIZE;
			struct ksm_record rec = { .block = block, .slot = slot };

			if (!take_back(track, addr, rec, arg))
				continue;
		}
		heads[slot] = KSM_UNSEEN;
		block->used--;
		nr[state]++;
	}
}

/* What was counted leaves the sums. */
static void subtract(struct ksm_track *track, unsigned long nr[KSM_NR_STATES])
{
	enum ksm_state state;

	for (state = KSM_UNSEEN + 1; state < KSM_NR_STATES; state++) {
		if (!nr[state])
			continue;
		track->nr[state] -= nr[state];
		atomic_long_sub(nr[state], &track->totals[state]);
		nr[state] = 0;
	}
}

/**
 * ksm_track_forget - forget the records of a range and free its blocks
 * @track: where
 * @addr: first byte of the range; records of pages that it only touches go, too
 * @last: last byte of the range
 * @take_back: called for each record that owns something, before that is forgotten;
 *	if it returns false the record stays
 * @arg: for @take_back
 *
 * Most records own nothing: these cost a few instructions each. Sums are not
 * touched for each of them; while @take_back sleeps they may be too high.
 *
 * Context: the owner's lock held; may sleep. Invalidates struct ksm_record of the range.
 */
void ksm_track_forget(struct ksm_track *track, unsigned long addr, unsigned long last,
		      ksm_take_back_fn *take_back, void *arg)
{
	unsigned long nr[KSM_NR_STATES] = {};
	struct ksm_block *block;
	unsigned int visited = 0;
	unsigned long index;

	xa_for_each_range(&track->blocks, index, block, block_index(addr), block_index(last)) {
		u64 before = 0, until = U64_MAX;

		if (index == block_index(addr))
			before = BIT_ULL(page_in_block(addr)) - 1;
		if (index == block_index(last))
			until >>= KSM_BLOCK_PAGES - 1 - page_in_block(last);
		forget_slots(track, block, index << (PAGE_SHIFT + KSM_BLOCK_SHIFT),
			     hweight64(block->map & before), hweight64(block->map & until),
			     take_back, arg, nr);
		if (!block->used) {
			xa_erase(&track->blocks, index);
			free_block(track, block);
		}
		if (++visited % FORGET_BLOCKS)
			continue;
		subtract(track, nr);
		cond_resched();
	}
	subtract(track, nr);
}

/**
 * ksm_track_records - how many records are in use
 * @track: where
 *
 * Context: exact with the owner's lock held.
 * Return: their number.
 */
unsigned long ksm_track_records(const struct ksm_track *track)
{
	unsigned long nr = 0;
	enum ksm_state state;

	for (state = KSM_UNSEEN + 1; state < KSM_NR_STATES; state++)
		nr += track->nr[state];
	return nr;
}
