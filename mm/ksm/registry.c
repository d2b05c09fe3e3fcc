// SPDX-License-Identifier: GPL-2.0-only
/*
 * Which mms take part: fork, exec and exit.
 *
 * An mm is registered when one of its VMAs becomes mergeable or when it asks
 * for merging everywhere, and stays so until it exits or the scanner finds
 * nothing mergeable left in it. MMF_VM_MERGEABLE says that it is registered;
 * it changes under the mmap_lock held for writing, or by the scanner under
 * mmap_lock held for reading, or by the exit hook when nobody else is left.
 */
#include <linux/pid.h>
#include <linux/pid_namespace.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/workqueue.h>
#include <trace/events/ksm.h>

#include "check.h"

#define KSM_REGISTRY_HASH_BITS	10
/* Whoever exits with more merged pages leaves them to a worker. */
#define KSM_EXIT_MERGED		64
/* Which looks so often whether they are unmapped, in jiffies. */
#define KSM_BURY_DELAY		(HZ / 10)

/* An mm has grown if it has so many new pages, and such a part more than before. */
#define KSM_GROWTH_PAGES	64UL
#define KSM_GROWTH_PART		8

/* Copies that could not be registered are looked for first and last after so many jiffies. */
#define KSM_MISSED_FIRST	HZ
#define KSM_MISSED_LAST		(64 * HZ)

static struct {
	spinlock_t lock;		/* guards the other members */
	struct list_head list;		/* ksm_mm.slot.mm_node, in order of scanning */
	struct ksm_mm *cursor;		/* where the pass stands; NULL at its end */
	struct ksm_mm *watched;		/* next whose growth is looked at, or NULL */
	bool all;			/* a pass must meet newcomers too */
	unsigned int missed;		/* copies are out: jiffies between looks; or 0 */
	unsigned long look;		/* the next one, in jiffies */
	struct list_head departed;	/* ksm_mm.slot.mm_node of those that are gone */
} registry = {
	.lock = __SPIN_LOCK_UNLOCKED(registry.lock),
	.list = LIST_HEAD_INIT(registry.list),
	.departed = LIST_HEAD_INIT(registry.departed),
};

static DEFINE_HASHTABLE(registry_hash, KSM_REGISTRY_HASH_BITS);	/* registry.lock */

static struct kmem_cache *ksm_mm_cache __ro_after_init;

/**
 * ksm_registry_init - make the cache of registered mms
 */
void __init ksm_registry_init(void)
{
	ksm_mm_cache = kmem_cache_create("ksm_mm", sizeof(struct ksm_mm), 0, SLAB_PANIC, NULL);
}

/**
 * ksm_registry_empty - whether nobody takes part
 *
 * Context: any; the answer may be old at once.
 * Return: true if no mm is registered.
 */
bool ksm_registry_empty(void)
{
	return list_empty_careful(&registry.list);
}

/**
 * ksm_registry_rewind - begin a round over all registered mms
 * @all: mms registered from now on belong to this round; else they wait for
 *	the next, so that a round ends however fast processes are forked
 *
 * Context: ksm_control held.
 */
void ksm_registry_rewind(bool all)
{
	guard(spinlock)(&registry.lock);
	registry.all = all;
	registry.cursor = list_first_entry_or_null(&registry.list, struct ksm_mm, slot.mm_node);
}

/**
 * ksm_registry_current - the registered mm at which the round stands
 *
 * Context: ksm_control held.
 * Return: it, with a reference for ksm_mm_put(), or NULL at the end of the round.
 */
struct ksm_mm *ksm_registry_current(void)
{
	guard(spinlock)(&registry.lock);
	if (registry.cursor)
		ksm_mm_get(registry.cursor);
	return registry.cursor;
}

static struct ksm_mm *registry_after(struct ksm_mm *kmm)
{
	if (list_is_last(&kmm->slot.mm_node, &registry.list))
		return NULL;
	return list_next_entry(kmm, slot.mm_node);
}

/**
 * ksm_registry_advance - go on to the next registered mm
 * @kmm: the one that is done; nothing happens if the round has left it already
 *
 * Context: ksm_control held.
 */
void ksm_registry_advance(struct ksm_mm *kmm)
{
	guard(spinlock)(&registry.lock);
	if (registry.cursor == kmm)
		registry.cursor = registry_after(kmm);
}

/*
 * Whether there is much in an mm that no pass has seen. One that was just forked, which
 * may exit before a pass gets to it, does not count.
 */
static bool has_grown(struct ksm_mm *kmm, unsigned long age)
{
	unsigned long anon = get_mm_counter(kmm->slot.mm, MM_ANONPAGES);

	return anon >= kmm->anon + max(kmm->anon / KSM_GROWTH_PART, KSM_GROWTH_PAGES) &&
	       !ksm_mm_is_young(kmm, age);
}

/**
 * ksm_registry_has_grown - whether some mm has got many new pages
 * @max: how many mms to look at; the next call goes on behind them
 * @age: how long they must have been registered, in jiffies
 *
 * Context: ksm_control held.
 * Return: true if one of those looked at has.
 */
bool ksm_registry_has_grown(unsigned int max, unsigned long age)
{
	guard(spinlock)(&registry.lock);
	if (!registry.watched)
		registry.watched = list_first_entry_or_null(&registry.list, struct ksm_mm,
							    slot.mm_node);
	while (max-- && registry.watched) {
		struct ksm_mm *kmm = registry.watched;

		registry.watched = registry_after(kmm);
		if (has_grown(kmm, age))
			return true;
	}
	return false;
}

#ifdef CONFIG_KSM_DEBUG
/**
 * ksm_registry_list - all registered mms, and the departed ones
 * @nr: result: how many
 *
 * Context: sleeps.
 * Return: an array to be freed with kvfree(), each mm with a reference, or NULL.
 */
struct ksm_mm **ksm_registry_list(unsigned long *nr)
{
	unsigned long room, i = 0;
	struct ksm_mm **kmms;
	struct ksm_mm *kmm;

	scoped_guard(spinlock, &registry.lock)
		room = list_count_nodes(&registry.list) +
		       list_count_nodes(&registry.departed) + 64;
	kmms = kvmalloc_array(room, sizeof(*kmms), GFP_KERNEL);
	if (!kmms)
		return NULL;
	guard(spinlock)(&registry.lock);
	/* Those registered meanwhile may be too many: then sums have moved, too. */
	list_for_each_entry(kmm, &registry.list, slot.mm_node) {
		if (i == room)
			break;
		ksm_mm_get(kmm);
		kmms[i++] = kmm;
	}
	list_for_each_entry(kmm, &registry.departed, slot.mm_node) {
		if (i == room)
			break;
		ksm_mm_get(kmm);
		kmms[i++] = kmm;
	}
	*nr = i;
	return kmms;
}
#endif

static void ksm_mm_release(struct kref *ref)
{
	struct ksm_mm *kmm = container_of(ref, struct ksm_mm, ref);

	mmdrop(kmm->slot.mm);
	ksm_cache_free(ksm_mm_cache, kmm);
}

/**
 * ksm_mm_put - let go of a registered mm
 * @kmm: on which the caller holds a reference
 *
 * Context: may sleep; no lock of the mm held.
 */
void ksm_mm_put(struct ksm_mm *kmm)
{
	kref_put(&kmm->ref, ksm_mm_release);
}

/**
 * ksm_mm_find - the registration of an mm
 * @mm: which
 *
 * Context: any.
 * Return: it, with a reference for ksm_mm_put(), or NULL.
 */
struct ksm_mm *ksm_mm_find(struct mm_struct *mm)
{
	struct mm_slot *slot;
	struct ksm_mm *kmm;

	guard(spinlock)(&registry.lock);
	slot = mm_slot_lookup(registry_hash, mm);
	if (!slot)
		return NULL;
	kmm = mm_slot_entry(slot, struct ksm_mm, slot);
	ksm_mm_get(kmm);
	return kmm;
}

/**
 * ksm_mm_lock - lock a registered mm's records and keep its page tables
 * @kmm: which
 *
 * Context: may sleep. To touch the page tables the mmap_lock is needed too,
 * and is taken before.
 * Return: false, and nothing is locked, when the mm is gone.
 */
bool ksm_mm_lock(struct ksm_mm *kmm)
{
	mutex_lock(&kmm->lock);
	if (kmm->gone) {
		mutex_unlock(&kmm->lock);
		return false;
	}
	return true;
}

/**
 * ksm_mm_trylock - lock a registered mm's records unless somebody has them locked
 * @kmm: which
 *
 * Context: mmap_lock held.
 * Return: false, and nothing is locked, when they are locked or the mm is gone.
 */
bool ksm_mm_trylock(struct ksm_mm *kmm)
{
	if (!mutex_trylock(&kmm->lock))
		return false;
	if (kmm->gone) {
		mutex_unlock(&kmm->lock);
		return false;
	}
	return true;
}

/**
 * ksm_mm_unlock - undo ksm_mm_lock() and publish the mm's figures
 * @kmm: which
 */
void ksm_mm_unlock(struct ksm_mm *kmm)
{
	struct mm_struct *mm = kmm->slot.mm;

	WRITE_ONCE(mm->ksm_rmap_items, ksm_track_records(&kmm->track));
	WRITE_ONCE(mm->ksm_merging_pages, kmm->track.nr[KSM_MERGED]);
	mutex_unlock(&kmm->lock);
}

/* Nobody finds the mm any more, and it is not scanned; registry.lock held. */
static void registry_remove(struct ksm_mm *kmm)
{
	if (registry.cursor == kmm)
		registry.cursor = registry_after(kmm);
	if (registry.watched == kmm)
		registry.watched = registry_after(kmm);
	hash_del(&kmm->slot.hash);
	list_del_init(&kmm->slot.mm_node);
}

/**
 * ksm_mm_retire - take a registered mm off, for good
 * @kmm: locked; its records are forgotten
 *
 * Context: kmm->lock held. Drops the registry's reference: the caller has one.
 */
void ksm_mm_retire(struct ksm_mm *kmm)
{
	lockdep_assert_held(&kmm->lock);

	ksm_forget_range(kmm, 0, ULONG_MAX);
	kmm->gone = true;
	mm_flags_clear(MMF_VM_MERGEABLE, kmm->slot.mm);
	scoped_guard(spinlock, &registry.lock)
		registry_remove(kmm);
	ksm_mm_put(kmm);
}

/*
 * Returns a departed mm, with a reference, if @unmapped one that has no VMAs any more. To
 * see that late does no harm. Others go to the end of the list, @left of them at most.
 */
static struct ksm_mm *get_departed(bool unmapped, size_t *left)
{
	struct ksm_mm *kmm;

	guard(spinlock)(&registry.lock);
	while ((kmm = list_first_entry_or_null(&registry.departed, struct ksm_mm, slot.mm_node))) {
		/* The exit changes it without a lock that would be known here; see above. */
		if (!unmapped || data_race(mtree_empty(&kmm->slot.mm->mm_mt))) {
			ksm_mm_get(kmm);
			return kmm;
		}
		if (!*left)
			return NULL;
		--*left;
		list_move_tail(&kmm->slot.mm_node, &registry.departed);
	}
	return NULL;
}

static size_t count_departed(void)
{
	guard(spinlock)(&registry.lock);
	return list_count_nodes(&registry.departed);
}

static void bury_all(bool unmapped)
{
	size_t left = count_departed();
	struct ksm_mm *kmm;

	while ((kmm = get_departed(unmapped, &left))) {
		bool listed;

		mutex_lock(&kmm->lock);
		ksm_forget_range(kmm, 0, ULONG_MAX);
		scoped_guard(spinlock, &registry.lock) {
			listed = !list_empty(&kmm->slot.mm_node);
			list_del_init(&kmm->slot.mm_node);
		}
		mutex_unlock(&kmm->lock);
		/* The list's own reference. */
		if (listed)
			ksm_mm_put(kmm);
		ksm_mm_put(kmm);
		cond_resched();
	}
}

/**
 * ksm_registry_bury - forget what is left of departed mms
 *
 * Several may do so at a time: those who come second to an mm find it done.
 *
 * Context: sleeps; no lock of an mm held.
 */
void ksm_registry_bury(void)
{
	bury_all(false);
}

static void bury_work(struct work_struct *work)
{
	bury_all(true);
	if (!list_empty_careful(&registry.departed))
		queue_delayed_work(system_dfl_long_wq, to_delayed_work(work), KSM_BURY_DELAY);
}

static DECLARE_DELAYED_WORK(bury, bury_work);

/*
 * To take a merged page off its node takes longer than to unmap it, and an application
 * waits for this mm to be gone. What the page tables map is found through its sites
 * meanwhile. Each of them took ksmd longer to make than it takes to forget, so that
 * they do not pile up.
 */
static void depart(struct ksm_mm *kmm)
{
	lockdep_assert_held(&kmm->lock);

	/* No lookup finds a page of this mm as a partner from here on. */
	if (kmm->track.nr[KSM_CANDIDATE])
		ksm_forget_but_merged(kmm);
	kmm->gone = true;
	mm_flags_clear(MMF_VM_MERGEABLE, kmm->slot.mm);
	scoped_guard(spinlock, &registry.lock) {
		registry_remove(kmm);
		list_add_tail(&kmm->slot.mm_node, &registry.departed);
	}
	queue_delayed_work(system_dfl_long_wq, &bury, KSM_BURY_DELAY);
}

/*
 * Newcomers wait for the next round, unless that must meet everybody. Returns whether it is
 * the first.
 */
static bool registry_insert(struct ksm_mm *kmm)
{
	struct mm_slot *slot = &kmm->slot;
	struct mm_struct *mm = slot->mm;
	bool first;

	guard(spinlock)(&registry.lock);
	first = list_empty(&registry.list);
	mm_slot_insert(registry_hash, mm, slot);
	if (registry.all || !registry.cursor)
		list_add_tail(&slot->mm_node, &registry.list);
	else
		list_add_tail(&slot->mm_node, &registry.cursor->slot.mm_node);
	return first;
}

/**
 * __ksm_enter - register an mm
 * @mm: not registered
 *
 * Context: mmap_lock held for writing, or for reading with ksm_control; may sleep.
 * Return: 0 or -ENOMEM.
 */
int __ksm_enter(struct mm_struct *mm)
{
	struct ksm_mm *kmm;

	ksm_point_sleep(KSM_POINT_FORK);
	if (ksm_stable_prepare() || ksm_unstable_prepare())
		return -ENOMEM;
	kmm = ksm_cache_alloc(ksm_mm_cache, GFP_KERNEL | __GFP_ZERO);
	if (!kmm)
		return -ENOMEM;

	kref_init(&kmm->ref);
	mutex_init(&kmm->lock);
	ksm_track_init(&kmm->track, ksm_stat.records);
	mmgrab(mm);
	kmm->slot.mm = mm;
	kmm->born = jiffies;
	kmm->young = true;
	mm_flags_set(MMF_VM_MERGEABLE, mm);
	/*
	 * ksmd is idle for want of mms only as long as the list is empty, and who made it
	 * not so wakes it: either ksmd sees the list after that, or it sleeps already.
	 */
	if (registry_insert(kmm))
		ksm_scan_wake();
	trace_ksm_enter(mm);
	return 0;
}

/* registry.lock held. */
static void look_for_missed_in(unsigned int delay)
{
	WRITE_ONCE(registry.missed, delay);
	WRITE_ONCE(registry.look, jiffies + delay);
}

/**
 * __ksm_fork - register a copy of an mm, if not now then later
 * @mm: the copy
 *
 * Context: mmap_lock held for writing; may sleep.
 */
void __ksm_fork(struct mm_struct *mm)
{
	if (!__ksm_enter(mm))
		return;
	scoped_guard(spinlock, &registry.lock)
		look_for_missed_in(KSM_MISSED_FIRST);
	ksm_scan_wake();
}

/**
 * ksm_registry_misses_some - whether a copy of an mm may have to be registered still
 *
 * Context: any; the answer may be old at once.
 * Return: true if so.
 */
bool ksm_registry_misses_some(void)
{
	return READ_ONCE(registry.missed);
}

/* The mm of the first process from a PID on, with a reference; that PID is passed over. */
static struct mm_struct *next_process(pid_t *nr)
{
	struct pid *pid;

	guard(rcu)();
	while ((pid = find_ge_pid(*nr, &init_pid_ns))) {
		struct task_struct *task = pid_task(pid, PIDTYPE_TGID);
		struct mm_struct *mm = task ? get_task_mm(task) : NULL;

		*nr = pid_nr(pid) + 1;
		if (mm)
			return mm;
	}
	return NULL;
}

static bool wants_to_take_part(struct mm_struct *mm)
{
	return mm_flags_test(MMF_VM_MERGE_ANY, mm) || ksm_process_mergeable(mm);
}

/* Returns false if that cannot be told, or done, now. */
static bool register_missed(struct mm_struct *mm)
{
	bool done = true;

	if (mm_flags_test(MMF_VM_MERGEABLE, mm))
		return true;
	if (!mmap_read_trylock(mm))
		return false;
	if (!mm_flags_test(MMF_VM_MERGEABLE, mm) && wants_to_take_part(mm))
		done = !__ksm_enter(mm);
	mmap_read_unlock(mm);
	return done;
}

static bool register_all_missed(void)
{
	struct mm_struct *mm;
	bool done = true;
	pid_t nr = 1;

	while ((mm = next_process(&nr))) {
		done &= register_missed(mm);
		/* All that it maps may have to be unmapped, if we are the last. */
		mmput_async(mm);
		cond_resched();
	}
	return done;
}

/**
 * ksm_registry_find_missed - register copies of mms for which there was no memory
 * @at_once: else only when it is time to
 *
 * Nothing leads to them, so all processes are asked. One that is not among these
 * yet, as its fork goes on, is found when this is done once more.
 *
 * Context: ksm_control held; sleeps.
 */
void ksm_registry_find_missed(bool at_once)
{
	bool done;

	lockdep_assert_held(&ksm_control);
	if (!ksm_registry_misses_some() ||
	    (!at_once && time_before(jiffies, READ_ONCE(registry.look))))
		return;
	done = register_all_missed();
	guard(spinlock)(&registry.lock);
	if (registry.missed < KSM_MISSED_LAST)
		look_for_missed_in(registry.missed * 2);
	else
		look_for_missed_in(done ? 0 : KSM_MISSED_LAST);
}

/**
 * __ksm_exit - the mm goes away: forget all about it
 * @mm: registered
 *
 * The lock waits for a batch in progress; whoever comes later sees that the mm
 * is gone before it looks at a page table.
 *
 * Context: may sleep. The caller may hold the mmap_lock or not: exec gives up
 * a new mm with the lock held.
 */
void __ksm_exit(struct mm_struct *mm)
{
	struct ksm_mm *kmm = ksm_mm_find(mm);

	if (!kmm)
		return;
	ksm_check_leave(mm);
	ksm_point_sleep(KSM_POINT_EXIT);
	if (ksm_mm_lock(kmm)) {
		if (kmm->track.nr[KSM_MERGED] > KSM_EXIT_MERGED)
			depart(kmm);
		else
			ksm_mm_retire(kmm);
		ksm_mm_unlock(kmm);
	}
	ksm_mm_put(kmm);
	trace_ksm_exit(mm);
	/* It forgets what it has seen. */
	if (ksm_registry_empty())
		ksm_scan_kick();
}
