// SPDX-License-Identifier: GPL-2.0-only
/*
 * A batch: collect, hash and file some pages of one mm.
 *
 * Pages are collected with references and hashed with no page table lock held.
 * The references are dropped before anything is merged: a page that somebody
 * else holds is not merged, and that includes us.
 *
 * Partners in other mms are dealt with after this mm's locks are gone, so that
 * never two mms are locked at a time.
 */
#include <linux/delay.h>
#include <linux/jiffies.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "batch.h"
#include "work.h"

/* How often to try for an mm's locks, 100 us apart. */
#define KSM_FEW_TRIES		10
#define KSM_MANY_TRIES		100
/* On a busy CPU each of them may take long: for no more than so many milliseconds. */
#define KSM_TRY_MSECS		10

/**
 * ksm_batch_alloc - room for batches, to be used again and again
 *
 * Return: it, or NULL.
 */
struct ksm_batch *ksm_batch_alloc(void)
{
	return kvzalloc_obj(struct ksm_batch);
}

/**
 * ksm_batch_free - undo ksm_batch_alloc()
 * @batch: it, or NULL
 */
void ksm_batch_free(struct ksm_batch *batch)
{
	kvfree(batch);
}

static void hash_items(struct ksm_batch *batch)
{
	unsigned int i, hashed = 0;

	for (i = 0; i < batch->nr_items; i++) {
		struct ksm_item *item = &batch->items[i];

		if (!item->page)
			continue;
		ksm_flush_aliases(batch->kmm, item->addr, item->page);
		item->key = ksm_page_key(item->page,
					 i + 1 < batch->nr_items ? item[1].page : NULL);
		ksm_stable_prefetch(item->key);
		ksm_unstable_prefetch(item->key);
		put_page(item->page);
		item->page = NULL;
		hashed++;
	}
	ksm_work_add(KSM_WORK_HASHED, hashed);
}

/*
 * A process may hold its mmap_lock for as long as it likes, and others wait for
 * ksm_control meanwhile: so it is only tried for. With the mmap_lock nobody but the exit
 * hook has the mm's own lock, and that means "gone".
 */
static int lock_mm(struct ksm_mm *kmm, unsigned int tries)
{
	unsigned long deadline = jiffies + msecs_to_jiffies(KSM_TRY_MSECS) + 1;
	struct mm_struct *mm = kmm->slot.mm;

	while (!READ_ONCE(kmm->gone)) {
		if (!ksm_point_fails(KSM_POINT_LOCK_MM) && mmap_read_trylock(mm)) {
			kmm->busy = 0;
			if (ksm_mm_trylock(kmm))
				return 0;
			mmap_read_unlock(mm);
			return -ESRCH;
		}
		if (!--tries || time_after(jiffies, deadline)) {
			kmm->busy++;
			return -EBUSY;
		}
		usleep_range(100, 200);
	}
	return -ESRCH;
}

static void unlock_mm(struct ksm_mm *kmm)
{
	ksm_mm_unlock(kmm);
	mmap_read_unlock(kmm->slot.mm);
}

/* First the partners, each mm of theirs locked once for a run of them ... */
static void promote_partners(struct ksm_batch *batch)
{
	struct ksm_mm *locked = NULL;
	unsigned int i;

	for (i = 0; i < batch->nr_pairs; i++) {
		struct ksm_pair *pair = &batch->pairs[i];
		struct ksm_partner *partner = &pair->partner;

		if (!locked || locked != partner->kmm) {
			if (locked)
				unlock_mm(locked);
			locked = NULL;
			if (!partner->kmm->busy && !lock_mm(partner->kmm, KSM_FEW_TRIES))
				locked = partner->kmm;
		}
		if (locked)
			pair->err = ksm_promote(locked, partner->addr, pair->item->key,
						pair->item->pfn, pair->item->shared);
		else
			pair->item->missed = partner->kmm->busy &&
					     ksm_mm_regarded(partner->kmm);
	}
	if (locked)
		unlock_mm(locked);
}

/* ... then the pages of this mm. */
static void finish_pairs(struct ksm_batch *batch)
{
	struct ksm_mm *kmm = batch->kmm;
	unsigned int i;

	if (lock_mm(kmm, KSM_FEW_TRIES)) {
		/* All that was found is to be found again. */
		for (i = 0; i < batch->nr_pairs; i++)
			ksm_sight_want(batch->pairs[i].item->key);
		return;
	}
	for (i = 0; i < batch->nr_pairs; i++)
		ksm_file_pair(batch, &batch->pairs[i]);
	unlock_mm(kmm);
}

static void put_partners(struct ksm_batch *batch)
{
	unsigned int i;

	for (i = 0; i < batch->nr_pairs; i++)
		ksm_mm_put(batch->pairs[i].partner.kmm);
}

/*
 * An mm that has nothing to merge any more is taken off until it has. To look for it
 * takes long where there are many VMAs, so only if the pass has met none.
 */
static void retire_if_idle(struct ksm_mm *kmm)
{
	struct mm_struct *mm = kmm->slot.mm;

	if (kmm->met || mm_flags_test(MMF_VM_MERGE_ANY, mm) || ksm_process_mergeable(mm))
		return;
	if (!ksm_track_records(&kmm->track))
		ksm_mm_retire(kmm);
}

static void begin_batch(struct ksm_batch *batch, struct ksm_mm *kmm, u64 max_work)
{
	batch->kmm = kmm;
	batch->max_work = min(max_work, KSM_BATCH_PAGES * KSM_COST_HASHED);
	batch->work = 0;
	batch->wanting = ksm_sight_wanting();
	batch->renewing = ksm_sight_renewing();
	batch->pass = ksm_whole_passes;
	batch->considered = 0;
	batch->refresh_all = ksm_refresh_passes;
	batch->again = KSM_NOWHERE;
	batch->skipped = 0;
	batch->handed_over = 0;
	batch->parts = 0;
	batch->forgotten = 0;
	batch->unit = ksm_backoff_unit();
	batch->now = jiffies;
	batch->found = 0;
	batch->changed = 0;
	batch->next = kmm->next;
	batch->stopped = false;
	batch->nr_items = 0;
	batch->nr_pairs = 0;
}

/**
 * ksm_batch_run - look at some pages of a registered mm
 * @batch: room
 * @kmm: the mm, with a reference; goes on at kmm->next
 * @max_work: how much to do at most, in parts of hashing a page
 * @sweeping: look only at settled pages whose key is wanted
 * @calm: the pass is in no hurry
 *
 * Context: ksm_control held; may sleep.
 * Return: how far it came, and what was done.
 */
struct ksm_batch_result ksm_batch_run(struct ksm_batch *batch, struct ksm_mm *kmm, u64 max_work,
				      bool sweeping, bool calm)
{
	struct ksm_batch_result result = {};
	int err;

	begin_batch(batch, kmm, max_work);
	batch->sweeping = sweeping;
	batch->calm = calm;
	err = lock_mm(kmm, KSM_MANY_TRIES);
	if (err) {
		result.end = err == -EBUSY ? KSM_BATCH_BUSY : KSM_BATCH_DONE;
		return result;
	}
	if (!kmm->next) {
		kmm->met = false;
		kmm->huge_round = 0;
		if (!sweeping)
			kmm->anon = get_mm_counter(kmm->slot.mm, MM_ANONPAGES);
	}
	ksm_collect(batch);
	ksm_point_sleep(KSM_POINT_COLLECTED);
	hash_items(batch);
	ksm_point_sleep(KSM_POINT_HASHED);
	ksm_file_items(batch);
	result.end = batch->stopped ? KSM_BATCH_STOPPED : KSM_BATCH_DONE;
	kmm->next = batch->stopped ? batch->next : 0;
	if (!batch->stopped && !sweeping)
		retire_if_idle(kmm);
	unlock_mm(kmm);
	ksm_free_replaced();

	ksm_point_sleep(KSM_POINT_UNLOCKED);
	promote_partners(batch);
	ksm_point_sleep(KSM_POINT_PROMOTED);
	if (batch->nr_pairs)
		finish_pairs(batch);
	put_partners(batch);
	ksm_free_replaced();
	atomic_long_add(batch->considered, &ksm_stat.scanned);
	atomic_long_add(batch->skipped, &ksm_stat.skipped);
	ksm_work_add(KSM_WORK_HANDED_OVER, batch->handed_over);
	result.work = max(batch->work, batch->parts * KSM_COST_PART);
	result.considered = batch->considered;
	result.found = batch->found;
	result.changed = batch->changed;
	return result;
}
