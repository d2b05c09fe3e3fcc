// SPDX-License-Identifier: GPL-2.0-only
/*
 * How long a page must be left alone by its owner before ksmd hashes or merges it.
 *
 * Each page record has a level. It rises when the page is found changed at a visit,
 * and by more when a merged page is written to soon after it was merged, as that costs
 * the application a fault and ksmd the work of merging. With each level the time
 * doubles for which a page that was found changed is passed over, whatever its PTE
 * says: a page that changes all the time is visited less and less often, keeps its
 * dirty bit meanwhile, and costs no TLB flush. A page that has been merged for long is
 * trusted more the next time.
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
#define LEVEL_AT_ONCE		1
/* Pages that change, but were merged never: 64 units. */
#define LEVEL_MAX_CHANGED	8
/* Pages that settled in between: 16 units. */
#define LEVEL_MAX_SETTLED	6
/* Pages that were written to soon after they were merged: from 8 to 256 units. */
#define LEVEL_MIN_REWRITTEN	5
#define LEVEL_MAX_REWRITTEN	10
static_assert(LEVEL_MAX_REWRITTEN < 1 << KSM_LEVEL_BITS);

/* Merged for less than this many units: not worth it. */
#define UNITS_SOON		16
/* Merged for more: that was worth it. */
#define UNITS_CALM		64

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
	if (lived < (u64)unit * UNITS_SOON)
		return clamp(level + 1, LEVEL_MIN_REWRITTEN, LEVEL_MAX_REWRITTEN);
	if (lived > (u64)unit * UNITS_CALM && level)
		return level - 1;
	return level;
}
