// SPDX-License-Identifier: GPL-2.0-only
/*
 * Sightings: which keys were seen, a few bits for each page.
 *
 * Most pages have no equal one. A page gets a node in the unstable forest only
 * when its key was seen before; a Bloom filter tells that (B. H. Bloom,
 * "Space/time trade-offs in hash coding with allowable errors", CACM 1970), both
 * its bits in one cache line. The page seen first has settled by then: its key
 * becomes wanted, by a second filter that settled pages are tested against as
 * they are passed over until the end of the next pass.
 *
 * A filter cannot forget. When much has changed since it was built, or the number
 * of pages has, a new one is filled in the course of a pass, by pages that are
 * passed over too, and takes over at its end. A wrong "seen" costs a node for
 * two passes, a wrong "wanted" costs hashing a page.
 *
 * All is ksmd's own, under ksm_control.
 */
#include <linux/bitmap.h>
#include <linux/log2.h>
#include <linux/mm.h>

#include "check.h"

/*
 * Filter bits for each page that it is made for. Up to twice as many may be noted before
 * it is built anew: 1.4 % to 5 % wrong answers then.
 */
#define SIGHT_BITS_PER_PAGE	16
/* Wanted bits for a page record. */
#define WANTED_BITS_PER_PAGE	1
/* Pages that a filter is made for, at least. */
#define SIGHT_MIN_PAGES		4096UL
/* At most: kvmalloc() gives no more than 2 GiB. */
#define SIGHT_MAX_PAGES		(1UL << 29)
#define SIGHT_LINE_BITS		512

/**
 * struct ksm_sightings - a filter, and what goes with its size
 * @bits: of keys that were seen, in lines of SIGHT_LINE_BITS
 * @wanted: of keys that are wanted: since this pass began, and in the one before
 * @pages: how many pages it is made for, a power of two
 * @noted: keys noted since it was built
 */
struct ksm_sightings {
	unsigned long *bits;
	unsigned long *wanted[2];
	unsigned long pages;
	unsigned long noted;
};

static struct {
	struct ksm_sightings now;
	struct ksm_sightings next;	/* being filled, if it has bits */
	unsigned long nr_wanted[2];	/* as now.wanted */
} sight;

static unsigned long sightings_bytes(unsigned long pages)
{
	return pages * (SIGHT_BITS_PER_PAGE + 2 * WANTED_BITS_PER_PAGE) / BITS_PER_BYTE;
}

#ifdef CONFIG_KSM_DEBUG
/**
 * ksm_sight_bytes - what filters take
 *
 * Context: ksm_control held.
 * Return: bytes.
 */
long ksm_sight_bytes(void)
{
	return sightings_bytes(sight.now.pages) + sightings_bytes(sight.next.pages);
}
#endif

static void sightings_free(struct ksm_sightings *s)
{
	if (s->pages)
		atomic_long_sub(sightings_bytes(s->pages), &ksm_stat.bytes);
	kvfree(s->bits);
	kvfree(s->wanted[0]);
	kvfree(s->wanted[1]);
	*s = (struct ksm_sightings){};
}

/* Without memory things stay as they are, with more wrong answers. */
static void sightings_alloc(struct ksm_sightings *s, unsigned long pages)
{
	gfp_t gfp = GFP_KERNEL | __GFP_ZERO | __GFP_NOWARN | __GFP_NORETRY;

	s->bits = kvmalloc(pages * SIGHT_BITS_PER_PAGE / BITS_PER_BYTE, gfp);
	s->wanted[0] = kvmalloc(pages * WANTED_BITS_PER_PAGE / BITS_PER_BYTE, gfp);
	s->wanted[1] = kvmalloc(pages * WANTED_BITS_PER_PAGE / BITS_PER_BYTE, gfp);
	s->pages = pages;
	atomic_long_add(sightings_bytes(pages), &ksm_stat.bytes);
	if (!s->bits || !s->wanted[0] || !s->wanted[1])
		sightings_free(s);
}

static unsigned long *sight_line(const struct ksm_sightings *s, u64 key)
{
	unsigned long lines = s->pages * SIGHT_BITS_PER_PAGE / SIGHT_LINE_BITS;

	return s->bits + (key & (lines - 1)) * BITS_TO_LONGS(SIGHT_LINE_BITS);
}

/* Returns whether it was there. */
static bool sightings_add(struct ksm_sightings *s, u64 key)
{
	unsigned long *line = sight_line(s, key);
	unsigned int bit1 = (key >> 32) % SIGHT_LINE_BITS;
	unsigned int bit2 = (key >> 48) % SIGHT_LINE_BITS;
	bool had1 = __test_and_set_bit(bit1, line);
	bool had2 = __test_and_set_bit(bit2, line);

	return had1 && had2;
}

static bool sightings_have(const struct ksm_sightings *s, u64 key)
{
	const unsigned long *line = sight_line(s, key);

	return test_bit((key >> 32) % SIGHT_LINE_BITS, line) &&
	       test_bit((key >> 48) % SIGHT_LINE_BITS, line);
}

static unsigned long wanted_bit(const struct ksm_sightings *s, u64 key)
{
	return (key >> 8) & (s->pages * WANTED_BITS_PER_PAGE - 1);
}

static bool needs_rebuild(unsigned long pages)
{
	const struct ksm_sightings *now = &sight.now;

	return pages > now->pages || pages < now->pages / 2 || now->noted > 2 * now->pages;
}

static void take_over(void)
{
	sightings_free(&sight.now);
	sight.now = sight.next;
	sight.next = (struct ksm_sightings){};
}

/**
 * ksm_sight_begin_pass - what was wanted before the last pass is so no longer
 * @records: how many page records are in use
 *
 * Context: ksm_control held; sleeps.
 */
void ksm_sight_begin_pass(unsigned long records)
{
	unsigned long pages = clamp(records, SIGHT_MIN_PAGES, SIGHT_MAX_PAGES);

	pages = rounddown_pow_of_two(pages);
	if (needs_rebuild(pages))
		sightings_alloc(&sight.next, pages);
	/* Nothing was noted, nobody has settled or waits: nothing to fill it with. */
	if (sight.next.pages && !sight.now.noted && !ksm_stat_unshared())
		take_over();
	if (!sight.now.pages)
		return;
	swap(sight.now.wanted[0], sight.now.wanted[1]);
	if (sight.nr_wanted[1])
		bitmap_zero(sight.now.wanted[0], sight.now.pages * WANTED_BITS_PER_PAGE);
	sight.nr_wanted[1] = sight.nr_wanted[0];
	sight.nr_wanted[0] = 0;
}

/**
 * ksm_sight_end_pass - a filter that was being filled is complete now
 *
 * Context: ksm_control held.
 */
void ksm_sight_end_pass(void)
{
	if (sight.next.pages)
		take_over();
}

/**
 * ksm_sight_reset - forget all: no page is settled any more
 *
 * Context: ksm_control held.
 */
void ksm_sight_reset(void)
{
	sightings_free(&sight.now);
	sightings_free(&sight.next);
	sight.nr_wanted[0] = 0;
	sight.nr_wanted[1] = 0;
}

/**
 * ksm_sight_in_use - whether there is anything to reset
 *
 * Context: any; the answer may be old at once.
 * Return: true if there is a filter.
 */
bool ksm_sight_in_use(void)
{
	return READ_ONCE(sight.now.pages) || READ_ONCE(sight.next.pages);
}

/**
 * ksm_sight_note - a page has a key
 * @key: which
 *
 * While a new filter is being filled the old one is only asked: it may be too
 * small by far.
 *
 * Context: ksm_control held; does not sleep.
 * Return: whether the key was seen before, perhaps.
 */
bool ksm_sight_note(u64 key)
{
	struct ksm_sightings *s = sight.next.pages ? &sight.next : &sight.now;
	bool seen;

	if (!s->pages)
		return true;
	seen = sightings_add(s, key);
	s->noted += !seen;
	if (s == &sight.next && !seen)
		seen = !sight.now.pages || sightings_have(&sight.now, key);
	return seen;
}

/**
 * ksm_sight_renew - a page still has a key that was noted
 * @key: which
 *
 * Context: ksm_control held; does not sleep.
 */
void ksm_sight_renew(u64 key)
{
	if (sight.next.pages)
		sight.next.noted += !sightings_add(&sight.next, key);
}

/**
 * ksm_sight_want - settled pages with a key shall be looked at
 * @key: which
 *
 * Context: ksm_control held; does not sleep.
 */
void ksm_sight_want(u64 key)
{
	if (sight.now.pages)
		__set_bit(wanted_bit(&sight.now, key), sight.now.wanted[0]);
	if (sight.next.pages)
		__set_bit(wanted_bit(&sight.next, key), sight.next.wanted[0]);
	sight.nr_wanted[0]++;
}

/**
 * ksm_sight_wanting - whether any key is wanted
 *
 * Context: ksm_control held.
 * Return: true if one became wanted in this pass or the last.
 */
bool ksm_sight_wanting(void)
{
	return sight.nr_wanted[0] | sight.nr_wanted[1];
}

/**
 * ksm_sight_wanted_lately - whether a key has become wanted in this pass
 *
 * Context: ksm_control held.
 * Return: true if one has.
 */
bool ksm_sight_wanted_lately(void)
{
	return sight.nr_wanted[0];
}

/**
 * ksm_sight_renewing - whether a filter is being filled by ksm_sight_renew()
 *
 * Context: ksm_control held.
 * Return: true if one is.
 */
bool ksm_sight_renewing(void)
{
	return sight.next.pages;
}

/**
 * ksm_sight_wanted - whether a settled page may have become interesting
 * @key: the page's
 *
 * Context: ksm_control held; does not sleep.
 * Return: true if its key is wanted, and for some other keys.
 */
bool ksm_sight_wanted(u64 key)
{
	unsigned long bit;

	if (!ksm_sight_wanting())
		return false;
	if (!sight.now.pages)
		return true;
	bit = wanted_bit(&sight.now, key);
	return test_bit(bit, sight.now.wanted[0]) || test_bit(bit, sight.now.wanted[1]);
}
