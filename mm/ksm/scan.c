// SPDX-License-Identifier: GPL-2.0-only
/*
 * ksmd: passes over all registered mms, a batch at a time, with sleeps between.
 */
#include <linux/freezer.h>
#include <linux/kthread.h>
#include <linux/memory.h>
#include <linux/swap.h>
#include <trace/events/ksm.h>

#include "ksm.h"

/* Nodes with heirs looked at in a turn, as long as that frees some, if that scans less. */
#define KSM_PRUNE_TURN		2048U
/* Looked at each time where nothing is scanned, whether that frees some or not. */
#define KSM_PRUNE_IDLE		1024U

/* So many passes without somebody, and for so long, and the next one counts as whole. */
#define KSM_BROKEN_PASSES	8
#define KSM_BROKEN_JIFFIES	(60 * HZ)

/* Run state; ksmd holds it for one batch. The outermost lock, see ksm.h. */
DEFINE_MUTEX(ksm_control);
unsigned int ksm_run = KSM_RUN_STOP;
unsigned int ksm_pages_to_scan = KSM_PAGES_TO_SCAN;
bool ksm_smart_scan = true;
unsigned int ksm_whole_passes;
unsigned int ksm_refresh_passes;

static unsigned int sleep_millisecs = 20;

/*
 * There is news in a pass if one in so many pages is new, or one in so many has changed
 * that seemed to be calm.
 */
#define KSM_NEWS_FOUND		256
#define KSM_NEWS_CHANGED	8
/* Passes in a hurry after it: new pages are hashed in the next, and found by the one after. */
#define KSM_NEWS_PASSES		2
/* A turn passes over so many times pages_to_scan at most, and sleeps as often in one. */
#define KSM_TURN_SLEEPS		64
/* A pass that is in no hurry takes so many sleeps at least. */
#define KSM_CALM_SLEEPS		8
/* Registered mms that are asked in each turn whether they have grown, and when again. */
#define KSM_GROWTH_MMS		64
#define KSM_GROWTH_JIFFIES	(60 * HZ)

static struct {
	wait_queue_head_t wait;		/* ksmd sleeps here */
	atomic_t calls;			/* changes of settings so far */
	struct ksm_batch *batch;	/* ksm_control */
	bool in_pass;			/* ksm_control */
	bool sweeping;			/* its end: settled pages that are wanted */
	struct ksm_mm *at;		/* the last mm that it looked at; no reference */
	bool in_middle;			/* it did not begin at that mm's first page */
	unsigned int waited;		/* batches that got no locks */
	bool left_out;			/* it goes on without a part of somebody */
	unsigned int broken;		/* passes since the last whole one */
	unsigned long broken_since;	/* when the first of them ended, in jiffies */
	bool offlining;			/* memory is going offline; one at a time does */
	bool news;			/* somebody has offered memory since the last turn */
	unsigned int hurried;		/* so many passes are in a hurry, this one included */
	unsigned long begun;		/* jiffies when the pass began */
	u64 found;			/* new pages in this pass */
	u64 changed;			/* pages in this pass that seemed to be calm before */
	u64 considered;			/* pages in this turn */
	bool for_growth;		/* it is in a hurry as some mm has grown */
	bool in_vain;			/* the last time that brought nothing */
	unsigned long grown;		/* until then, in jiffies, growth does not count */
	unsigned long rest;		/* after this turn, in jiffies, if nobody calls */
	unsigned int pages;		/* pages_to_scan when the turn ended */
	bool prune_soon;		/* there are heirs that are of no use any more */
} scan = {
	.wait = __WAIT_QUEUE_HEAD_INITIALIZER(scan.wait),
};

/**
 * ksm_scan_wake - there may be something to do for a ksmd that is idle
 *
 * A sleep between two turns is not cut short.
 *
 * Context: any.
 */
void ksm_scan_wake(void)
{
	wake_up_interruptible(&scan.wait);
}

/**
 * ksm_scan_kick - settings have changed: ksmd looks at them at once
 *
 * Context: any.
 */
void ksm_scan_kick(void)
{
	atomic_inc_return_release(&scan.calls);	/* pairs with scan_sleep() */
	ksm_scan_wake();
}

/**
 * ksm_scan_hurry - somebody has offered memory: ksmd does not rest until it has seen it
 *
 * A sleep of sleep_millisecs is not cut short.
 *
 * Context: any.
 */
void ksm_scan_hurry(void)
{
	WRITE_ONCE(scan.news, true);
	/* Its barrier pairs with that of the wait for news in scan_sleep(). */
	if (wq_has_sleeper(&scan.wait))
		ksm_scan_wake();
}

/**
 * ksm_scan_sleep_millisecs - how long ksmd sleeps between its turns
 *
 * Return: milliseconds.
 */
unsigned int ksm_scan_sleep_millisecs(void)
{
	return READ_ONCE(sleep_millisecs);
}

/**
 * ksm_scan_set_sleep_millisecs - change that, at once
 * @msecs: milliseconds
 */
void ksm_scan_set_sleep_millisecs(unsigned int msecs)
{
	WRITE_ONCE(sleep_millisecs, msecs);
	ksm_scan_kick();
}

/**
 * ksm_scan_reset - the next turn begins a new pass
 *
 * Context: ksm_control held.
 */
void ksm_scan_reset(void)
{
	lockdep_assert_held(&ksm_control);
	scan.in_pass = false;
	scan.broken = 0;
	ksm_sight_reset();
}

static bool scan_should_run(void)
{
	return READ_ONCE(ksm_run) == KSM_RUN_MERGE && !ksm_registry_empty() &&
	       !READ_ONCE(scan.offlining);
}

static void begin_pass(void)
{
	/* Pages in per-CPU lists look held and could not be merged. */
	lru_add_drain_all();
	ksm_registry_rewind(false);
	scan.in_pass = true;
	scan.begun = jiffies;
	scan.found = 0;
	scan.changed = 0;
	scan.sweeping = false;
	scan.at = NULL;
	scan.waited = 0;
	scan.left_out = false;
	ksm_advisor_begin_pass();
	/* What was wanted or noted stays so until all have seen it. */
	if (!scan.broken || !ksm_sight_in_use()) {
		ksm_sight_begin_pass(ksm_stat_records());
		ksm_frames_begin_pass();
	}
	trace_ksm_start_scan(atomic_long_read(&ksm_stat.passes), ksm_stat_records());
}

/*
 * All were seen that could be. Of equal pages that have just become stable the first has
 * settled before its twin was met: a sweep over the settled ones finds it.
 */
static bool begin_sweep(void)
{
	if (scan.sweeping || !ksm_sight_wanted_lately())
		return false;
	scan.sweeping = true;
	scan.at = NULL;
	ksm_registry_rewind(false);
	return true;
}

/* If there is always somebody who is busy, others shall not do without for ever. */
static bool pass_is_whole(void)
{
	if (!scan.left_out)
		return true;
	if (!scan.broken++)
		scan.broken_since = jiffies;
	return scan.broken > KSM_BROKEN_PASSES &&
	       time_after(jiffies, scan.broken_since + KSM_BROKEN_JIFFIES);
}

static void end_whole_pass(void)
{
	scan.broken = 0;
	ksm_whole_passes++;
	if (ksm_refresh_passes)
		ksm_refresh_passes--;
	ksm_sight_end_pass();
}

/*
 * As long as there is news ksmd is in a hurry: pages that are passed over cost little of
 * pages_to_scan. If there is none they count in full, and a pass over memory in which
 * nothing happens takes as long as the settings say.
 */
static void look_for_news(void)
{
	u64 records = ksm_stat_records();

	if (scan.found * KSM_NEWS_FOUND > records || scan.changed * KSM_NEWS_CHANGED > records) {
		scan.hurried = max(scan.hurried, KSM_NEWS_PASSES + !scan.in_pass);
		scan.for_growth = false;
	}
}

/* Growth that brought nothing new is not looked for again for a while. */
static void look_for_growth(void)
{
	if (scan.hurried || (scan.in_vain && time_before(jiffies, scan.grown)))
		return;
	scan.in_vain = false;
	if (!ksm_registry_has_grown(KSM_GROWTH_MMS, ksm_backoff_unit()))
		return;
	/* The rest of this pass, as it has grown behind it perhaps, and the next. */
	scan.hurried = 1 + scan.in_pass;
	scan.for_growth = true;
}

static void end_hurry(void)
{
	if (!scan.hurried || --scan.hurried)
		return;
	scan.in_vain = scan.for_growth;
	scan.grown = jiffies + KSM_GROWTH_JIFFIES;
	scan.for_growth = false;
}

static void end_pass(void)
{
	scan.in_pass = false;
	look_for_news();
	end_hurry();
	if (pass_is_whole())
		end_whole_pass();
	ksm_advisor_end_pass();
	trace_ksm_stop_scan(atomic_long_read(&ksm_stat.passes), ksm_stat_records());
	atomic_long_inc(&ksm_stat.passes);
}

/*
 * Whether the pass goes on without an mm that was busy. It waits a while, but not for
 * one that it has waited for before. The next pass goes on in that mm where this one
 * was; a sweep has no such place.
 */
static bool leave_out(struct ksm_mm *kmm)
{
	if (kmm->busy < KSM_BUSY_TRIES) {
		if (++scan.waited < KSM_BUSY_TRIES)
			return false;
		kmm->busy = KSM_BUSY_TRIES;
	}
	if (kmm->busy == KSM_BUSY_TRIES)
		kmm->out_since = ksm_whole_passes;
	if (ksm_mm_regarded(kmm))
		scan.left_out = true;
	if (scan.sweeping)
		kmm->next = 0;
	return true;
}

/* Notes where in an mm a pass, or a sweep, begins. */
static void begin_mm(struct ksm_mm *kmm)
{
	if (scan.at == kmm)
		return;
	scan.at = kmm;
	scan.in_middle = kmm->next;
}

/* Nobody wants it to be quick. */
static bool is_calm(void)
{
	return !scan.hurried && ksm_scan_sleep_millisecs();
}

static struct ksm_batch_result scan_mm(struct ksm_mm *kmm, u64 budget)
{
	struct ksm_batch_result result = { .end = KSM_BATCH_DONE };

	begin_mm(kmm);
	/* It was left out of the pass, and its place would be lost. */
	if (scan.sweeping && scan.in_middle) {
		scan.left_out |= ksm_mm_regarded(kmm);
		return result;
	}
	result = ksm_batch_run(scan.batch, kmm, budget, scan.sweeping, is_calm());
	if (result.end == KSM_BATCH_BUSY)
		result.end = leave_out(kmm) ? KSM_BATCH_DONE : KSM_BATCH_STOPPED;
	else
		scan.left_out |= scan.in_middle;
	scan.considered += result.considered;
	scan.changed += result.changed;
	/* Most of what is forked is known, and soon gone. */
	if (!ksm_mm_is_young(kmm, ksm_backoff_unit()))
		scan.found += result.found;
	return result;
}

/*
 * One batch. Returns false when this turn is over: told to stop, nobody there,
 * or the pass has ended.
 */
static bool scan_one(u64 *budget)
{
	struct ksm_batch_result result;
	struct ksm_mm *kmm;

	guard(mutex)(&ksm_control);
	if (!scan_should_run())
		return false;
	if (!scan.in_pass)
		begin_pass();
	kmm = ksm_registry_current();
	if (!kmm && begin_sweep())
		return true;
	if (!kmm) {
		end_pass();
		return false;
	}
	result = scan_mm(kmm, *budget);
	if (result.end == KSM_BATCH_DONE)
		ksm_registry_advance(kmm);
	ksm_mm_put(kmm);
	if (!scan.hurried)
		look_for_news();
	*budget -= min_t(u64, max_t(u64, result.work, KSM_COST_MM), *budget);
	return *budget;
}

/*
 * If it is in no hurry ksmd pays for pages that are passed over as for others, by a longer
 * sleep. And it does not make short passes all the time.
 */
static unsigned long rest_after(unsigned int pages)
{
	u64 sleep = ksm_scan_sleep_millisecs(), sleeps;
	unsigned long rest, pause, passed = jiffies - scan.begun;

	if (!is_calm() || !pages)
		return 0;
	sleeps = div_u64(scan.considered, pages);
	rest = sleeps > 1 ? msecs_to_jiffies(min((sleeps - 1) * sleep, INT_MAX)) : 0;
	pause = msecs_to_jiffies(min((KSM_CALM_SLEEPS - 1) * sleep, INT_MAX));
	if (!scan.in_pass && passed < pause)
		rest = max(rest, pause - passed);
	return rest;
}

/*
 * Looks at nodes with heirs, and at more of them as long as that frees some: a process
 * that goes leaves many at once, and its relatives need none of them when they are gone.
 * Returns whether to go on soon.
 */
static bool prune_some(unsigned int least, unsigned int most, bool again)
{
	unsigned int nr = 0;
	bool worth = true;

	while ((worth || nr < least) && nr < most && !freezing(current)) {
		scoped_guard(mutex, &ksm_control)
			worth = ksm_site_prune_step(!nr && (again || !scan.in_pass));
		nr += KSM_PRUNE_STEP;
		cond_resched();
	}
	return worth;
}

static void scan_turn(unsigned int pages)
{
	u64 budget = (u64)pages * KSM_COST_HASHED;

	scoped_guard(mutex, &ksm_control) {
		ksm_registry_find_missed(false);
		if (READ_ONCE(scan.news)) {
			WRITE_ONCE(scan.news, false);
			scan.hurried = KSM_NEWS_PASSES + 1;
			scan.for_growth = false;
		} else {
			look_for_growth();
		}
		scan.considered = 0;
	}
	while (budget && scan_one(&budget) && !freezing(current) &&
	       scan.considered < (u64)pages * KSM_TURN_SLEEPS)
		cond_resched();
	scoped_guard(mutex, &ksm_control) {
		/* An advisor's new one is for the next turn: that of this one is paid for. */
		scan.pages = READ_ONCE(ksm_pages_to_scan);
		scan.rest = rest_after(pages);
	}
	scan.prune_soon = prune_some(0, max(KSM_PRUNE_TURN, pages), false);
}

static bool scan_should_wake(void)
{
	return scan_should_run() || kthread_should_stop();
}

/* Nobody takes part any more: what was seen of them is of no use. */
static bool scan_drop_sightings(void)
{
	guard(mutex)(&ksm_control);
	if (!ksm_registry_empty() || !ksm_sight_in_use())
		return false;
	ksm_sight_reset();
	return true;
}

static bool scan_has_leftovers(void)
{
	return ksm_site_nr_heirs() || ksm_registry_misses_some() ||
	       (ksm_registry_empty() && ksm_sight_in_use());
}

/*
 * Nothing to scan. Heirs are not needed any more once their relatives have
 * written to their pages or exited, which nobody tells: look now and then, and
 * less often the longer they stay.
 */
static void scan_idle(void)
{
	long delay = HZ;

	scoped_guard(mutex, &ksm_control)
		ksm_advisor_forget_pass();
	while (!scan_should_wake()) {
		unsigned int nr_heirs;

		wait_event_freezable(scan.wait, scan_should_wake() || scan_has_leftovers());
		if (scan_drop_sightings())
			continue;
		if (wait_event_freezable_timeout(scan.wait, scan_should_wake(), delay))
			break;
		scoped_guard(mutex, &ksm_control)
			ksm_registry_find_missed(false);
		nr_heirs = ksm_site_nr_heirs();
		prune_some(KSM_PRUNE_IDLE, UINT_MAX, true);
		delay = ksm_site_nr_heirs() < nr_heirs ? HZ : min(delay * 2, 64 * HZ);
	}
}

/* Where heirs have become useless ksmd only sleeps between looking at them. */
static void scan_rest(int calls)
{
	unsigned long end = jiffies + scan.rest;
	long left;

	while ((left = end - jiffies) > 0) {
		if (scan.prune_soon)
			left = min_t(long, left, msecs_to_jiffies(ksm_scan_sleep_millisecs()));
		if (wait_event_freezable_timeout(scan.wait, atomic_read(&scan.calls) != calls ||
						 READ_ONCE(scan.news) ||
						 READ_ONCE(ksm_pages_to_scan) != scan.pages, left))
			break;
		if (scan.prune_soon)
			scan.prune_soon = prune_some(0, KSM_PRUNE_TURN, false);
	}
}

static void scan_sleep(void)
{
	int calls = atomic_read_acquire(&scan.calls);

	if (!scan_should_run()) {
		scan_idle();
		return;
	}
	if (!ksm_scan_sleep_millisecs()) {
		cond_resched();
		return;
	}
	wait_event_freezable_timeout(scan.wait, atomic_read(&scan.calls) != calls,
				     msecs_to_jiffies(ksm_scan_sleep_millisecs()));
	if (scan.rest && atomic_read(&scan.calls) == calls)
		scan_rest(calls);
}

static int ksmd(void *unused)
{
	set_freezable();
	set_user_nice(current, 5);
	while (!kthread_should_stop()) {
		scan_turn(READ_ONCE(ksm_pages_to_scan));
		try_to_freeze();
		scan_sleep();
	}
	return 0;
}

#ifdef CONFIG_MEMORY_HOTREMOVE
/*
 * While pages are moved out of the range, ksmd would only hold some of them up:
 * it steps aside, and is out of its batch when this returns. No folio is left
 * in the range when it is offline; its memory map may go.
 */
static int memory_callback(struct notifier_block *self, unsigned long action, void *arg)
{
	struct memory_notify *range = arg;

	switch (action) {
	case MEM_GOING_OFFLINE:
		WRITE_ONCE(scan.offlining, true);
		mutex_lock(&ksm_control);
		mutex_unlock(&ksm_control);
		break;
	case MEM_OFFLINE:
		ksm_stable_forget_pfns(range->start_pfn, range->nr_pages);
		fallthrough;
	case MEM_CANCEL_OFFLINE:
		WRITE_ONCE(scan.offlining, false);
		ksm_scan_wake();
		break;
	}
	return NOTIFY_OK;
}
#endif

/**
 * ksm_scan_init - start ksmd
 *
 * Return: 0 or an error.
 */
int __init ksm_scan_init(void)
{
	struct task_struct *task;

	scan.batch = ksm_batch_alloc();
	if (!scan.batch)
		return -ENOMEM;
#ifdef CONFIG_MEMORY_HOTREMOVE
	hotplug_memory_notifier(memory_callback, KSM_CALLBACK_PRI);
#endif
	task = kthread_run(ksmd, NULL, "ksmd");
	if (IS_ERR(task)) {
		ksm_batch_free(scan.batch);
		return PTR_ERR(task);
	}
	return 0;
}
