// SPDX-License-Identifier: GPL-2.0-only
/*
 * How long a page must be left alone by its owner before ksmd hashes or merges it.
 *
 * Each page record has a level. It rises when the page is found changed at a visit, and
 * when a merged page is written to soon after it was merged, as that costs the
 * application a fault and ksmd the work of merging. With each level the time doubles for
 * which a page that was found changed is passed over, whatever its PTE says: a page that
 * changes all the time is visited less and less often, keeps its dirty bit meanwhile, and
 * costs no TLB flush. The level falls when a page has been merged for long: pages that
 * are written to at random, but not often, merge again and again.
 *
 * Where a page goes away its record does, too. So what became of the pages that were
 * merged lately is remembered for each mm: if most were gone soon, as in a heap that is
 * collected again and again, new pages have to wait as well.
 *
 * Times are counted in units of fifty times sleep_millisecs, a second by default. With
 * sleep_millisecs 0, and with smart_scan off, there is no back-off.
 */
#include <linux/jiffies.h>
#include <linux/minmax.h>

#include "ksm.h"

/* A unit is so many sleeps, and as long as the default at most. */
#define UNIT_SLEEPS		50
#define UNIT_MAX_MSECS		1000

/* Up to here the next visit, a pass later, is soon enough. */
#define LEVEL_AT_ONCE		1U
/* Pages that change, but were merged never: 64 units. */
#define LEVEL_MAX_CHANGED	8
/* Pages that settled in between: 16 units. */
#define LEVEL_MAX_SETTLED	6
/* Pages that were written to at once after they were merged: 4 units, and up to 256. */
#define LEVEL_MIN_REWRITTEN	4
#define LEVEL_MAX_REWRITTEN	10
static_assert(LEVEL_MAX_REWRITTEN < 1 << KSM_LEVEL_BITS);

/* New pages of an mm whose merged pages do not last: 8 units. */
#define LEVEL_FLEETING		5

/* Of so many pages what became of them is remembered. */
#define FATE_PAGES		4096

/* Units for which a page was merged: no gain at all, not worth it, and well worth it. */
#define UNITS_AT_ONCE		2
#define UNITS_SOON		10
#define UNITS_LONG		20
/* Levels that a page falls by then. */
#define LEVELS_LONG		2U
/* In fewer units a page of a heap that is collected is gone: it should not be merged. */
#define UNITS_FLEETING		6

/**
 * ksm_backoff_unit - what times are counted in
 *
 * Context: any.
 * Return: jiffies, 0 when pages are not made to wait.
 */
unsigned int ksm_backoff_unit(void)
{
	unsigned int sleep = ksm_scan_sleep_millisecs();

	if (!sleep || !READ_ONCE(ksm_smart_scan))
		return 0;
	return msecs_to_jiffies(min(sleep, UNIT_MAX_MSECS / UNIT_SLEEPS) * UNIT_SLEEPS);
}

/**
 * ksm_backoff_wait - for how long a page that was found changed is passed over
 * @unit: ksm_backoff_unit()
 * @level: of its record
 *
 * Return: jiffies; 0 if it is visited in the next pass.
 */
unsigned long ksm_backoff_wait(unsigned int unit, unsigned int level)
{
	return level <= LEVEL_AT_ONCE ? 0 : (unsigned long)unit << (level - LEVEL_AT_ONCE - 1);
}

/**
 * ksm_backoff_changed - a page that is not merged was found changed
 * @state: of its record
 * @level: of its record
 *
 * Return: the new level.
 */
unsigned int ksm_backoff_changed(enum ksm_state state, unsigned int level)
{
	unsigned int most = state == KSM_CLEANED ? LEVEL_MAX_CHANGED : LEVEL_MAX_SETTLED;

	return max(level, min(level + 1, most));
}

/**
 * ksm_backoff_rewritten - a merged page was written to
 * @unit: ksm_backoff_unit()
 * @level: of its record
 * @lived: jiffies since it was merged
 *
 * Return: the new level.
 */
unsigned int ksm_backoff_rewritten(unsigned int unit, unsigned int level, u32 lived)
{
	if (lived < (u64)unit * UNITS_AT_ONCE)
		level = max(level, LEVEL_MIN_REWRITTEN - 1);
	if (lived < (u64)unit * UNITS_SOON)
		return min(level + 1, LEVEL_MAX_REWRITTEN);
	if (lived > (u64)unit * UNITS_LONG)
		level -= min(level, LEVELS_LONG);
	/* It is not new any more: to merge it again is no news. */
	return max(level, LEVEL_AT_ONCE);
}

/**
 * ksm_fate_merged - a page of an mm was merged
 * @fate: of the mm's pages
 *
 * Context: the mm locked.
 */
void ksm_fate_merged(struct ksm_fate *fate)
{
	if (++fate->merged < FATE_PAGES)
		return;
	fate->merged /= 2;
	fate->wasted /= 2;
}

/**
 * ksm_fate_ended - a merged page of an mm was written to, or went away
 * @fate: of the mm's pages
 * @unit: ksm_backoff_unit()
 * @lived: jiffies since it was merged
 *
 * Context: the mm locked.
 */
void ksm_fate_ended(struct ksm_fate *fate, unsigned int unit, u32 lived)
{
	if (lived < (u64)unit * UNITS_FLEETING && fate->wasted < fate->merged)
		fate->wasted++;
}

/**
 * ksm_backoff_first - how patient ksmd is with a page that it sees for the first time
 * @fate: of the mm's pages
 * @unit: ksm_backoff_unit()
 *
 * Return: the level of its record.
 */
unsigned int ksm_backoff_first(const struct ksm_fate *fate, unsigned int unit)
{
	return unit && fate->wasted > fate->merged / 2 ? LEVEL_FLEETING : 0;
}
