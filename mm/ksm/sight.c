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
 * Nor can it tell of a key that it was not told of: two equal pages that have both
 * settled would never meet. So a new one is filled every KSM_REFRESH_PASSES at the
 * latest, and of two settled pages with one key the second finds it noted already.
 *
 * All is ksmd's own, under ksm_control.
 */
#include <kunit/static_stub.h>
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
/* At most: a key has bits to choose a line for so many pages, 512 TiB at 4 KiB a page. */
#define SIGHT_MAX_PAGES		(1UL << min(37, BITS_PER_LONG - 6))
#define SIGHT_LINE_BITS		512
/* Bits that are allocated together: 256 KiB. */
#define SIGHT_CHUNK_BITS	(1UL << 21)

/**
 * struct sight_bits - a large bitmap in chunks
 * @chunks: each of SIGHT_CHUNK_BITS bits, or one of @nr
 * @nr: how many bits, a power of two
 */
struct sight_bits {
	unsigned long **chunks;
	unsigned long nr;
};

/**
 * struct ksm_sightings - a filter, and what goes with its size
 * @bits: of keys that were seen, in lines of SIGHT_LINE_BITS
 * @wanted: of keys that are wanted: since this pass began, and in the one before
 * @pages: how many pages it is made for, a power of two
 * @noted: keys noted since it was built
 */
struct ksm_sightings {
	struct sight_bits bits;
	struct sight_bits wanted[2];
	unsigned long pages;
	unsigned long noted;
};

static struct {
	struct ksm_sightings now;
	struct ksm_sightings next;	/* being filled, if it has bits */
	long filled_in;			/* ksm_stat.passes when that began */
	unsigned int tried;		/* ksm_whole_passes then, or when there was no memory */
	unsigned int delay;		/* until a larger one than there is memory for is tried */
	unsigned long nr_wanted[2];	/* as now.wanted */
	u64 glance[KSM_GLANCE_WORDS];	/* of this pass, as ksm_sight_glance */
} sight;

u64 ksm_sight_glance[KSM_GLANCE_WORDS];

#ifdef CONFIG_KSM_DEBUG
bool ksm_sightings_denied;
#endif

static unsigned long nr_chunks(unsigned long bits)
{
	return DIV_ROUND_UP(bits, SIGHT_CHUNK_BITS);
}

static unsigned long chunk_bytes(unsigned long bits)
{
	return min(bits, SIGHT_CHUNK_BITS) / BITS_PER_BYTE;
}

static unsigned long bits_bytes(unsigned long bits)
{
	return nr_chunks(bits) * (chunk_bytes(bits) + sizeof(unsigned long *));
}

static unsigned long sightings_bytes(unsigned long pages)
{
	return bits_bytes(pages * SIGHT_BITS_PER_PAGE) +
	       2 * bits_bytes(pages * WANTED_BITS_PER_PAGE);
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

/**
 * ksm_sight_alloc - memory for a filter, cleared
 * @bytes: how much
 *
 * Context: sleeps.
 * Return: it, for kvfree(), or NULL.
 */
void *ksm_sight_alloc(size_t bytes)
{
	KUNIT_STATIC_STUB_REDIRECT(ksm_sight_alloc, bytes);
	return kvmalloc(bytes, GFP_KERNEL | __GFP_ZERO | __GFP_NOWARN | __GFP_NORETRY);
}

static void bits_free(struct sight_bits *bits)
{
	unsigned long i;

	for (i = 0; bits->chunks && i < nr_chunks(bits->nr); i++) {
		kvfree(bits->chunks[i]);
		cond_resched();
	}
	kvfree(bits->chunks);
}

/* What there was memory for stays for bits_free(). */
static bool bits_alloc(struct sight_bits *bits, unsigned long nr)
{
	unsigned long i;

	bits->nr = nr;
	bits->chunks = ksm_sight_alloc(nr_chunks(nr) * sizeof(*bits->chunks));
	if (!bits->chunks)
		return false;
	for (i = 0; i < nr_chunks(nr); i++) {
		bits->chunks[i] = ksm_sight_alloc(chunk_bytes(nr));
		if (!bits->chunks[i])
			return false;
		cond_resched();
	}
	return true;
}

static void bits_clear(struct sight_bits *bits)
{
	unsigned long i;

	for (i = 0; i < nr_chunks(bits->nr); i++) {
		memset(bits->chunks[i], 0, chunk_bytes(bits->nr));
		cond_resched();
	}
}

static unsigned long *word_of(const struct sight_bits *bits, unsigned long bit)
{
	return bits->chunks[bit / SIGHT_CHUNK_BITS] + BIT_WORD(bit % SIGHT_CHUNK_BITS);
}

static void sightings_free(struct ksm_sightings *s)
{
	if (s->pages)
		atomic_long_sub(sightings_bytes(s->pages), &ksm_stat.bytes);
	bits_free(&s->bits);
	bits_free(&s->wanted[0]);
	bits_free(&s->wanted[1]);
	*s = (struct ksm_sightings){};
}

static bool sightings_alloc(struct ksm_sightings *s, unsigned long pages)
{
	s->pages = pages;
	atomic_long_add(sightings_bytes(pages), &ksm_stat.bytes);
	if (bits_alloc(&s->bits, pages * SIGHT_BITS_PER_PAGE) &&
	    bits_alloc(&s->wanted[0], pages * WANTED_BITS_PER_PAGE) &&
	    bits_alloc(&s->wanted[1], pages * WANTED_BITS_PER_PAGE))
		return true;
	sightings_free(s);
	return false;
}

static unsigned long *sight_line(const struct ksm_sightings *s, u64 key)
{
	unsigned long line = key & (s->bits.nr / SIGHT_LINE_BITS - 1);

	return word_of(&s->bits, line * SIGHT_LINE_BITS);
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

static unsigned long wanted_bit(const struct sight_bits *wanted, u64 key)
{
	return (key >> 8) & (wanted->nr - 1);
}

static void wanted_add(struct sight_bits *wanted, u64 key)
{
	unsigned long bit = wanted_bit(wanted, key);

	__set_bit(bit % BITS_PER_LONG, word_of(wanted, bit));
}

static bool wanted_has(const struct sight_bits *wanted, u64 key)
{
	unsigned long bit = wanted_bit(wanted, key);

	return test_bit(bit % BITS_PER_LONG, word_of(wanted, bit));
}

static bool needs_rebuild(unsigned long pages)
{
	unsigned int passes = ksm_whole_passes - sight.tried;
	const struct ksm_sightings *now = &sight.now;

	if (sight.next.pages || passes < sight.delay)
		return false;
	return pages > now->pages || pages < now->pages / 2 || now->noted > 2 * now->pages ||
	       passes >= KSM_REFRESH_PASSES;
}

/*
 * Without memory for as large a filter as there should be it is a smaller one, or the old
 * one stays, with more wrong answers. To try again takes long: it is done after twice as
 * many passes each time.
 */
static void begin_filling(unsigned long pages)
{
	unsigned long least = clamp(sight.now.pages, SIGHT_MIN_PAGES, pages), most = pages;

	while (!sightings_alloc(&sight.next, pages) && pages > least)
		pages /= 2;
	sight.delay = sight.next.pages == most ? 0 : clamp(2 * sight.delay, 2U, KSM_REFRESH_PASSES);
	sight.tried = ksm_whole_passes;
	sight.filled_in = atomic_long_read(&ksm_stat.passes);
}

static void take_over(void)
{
	sightings_free(&sight.now);
	sight.now = sight.next;
	sight.next = (struct ksm_sightings){};
}

static void rotate_wanted(void)
{
	if (ksm_sight_wanting()) {
		memcpy(ksm_sight_glance, sight.glance, sizeof(sight.glance));
		memset(sight.glance, 0, sizeof(sight.glance));
	}
	if (sight.now.pages) {
		swap(sight.now.wanted[0], sight.now.wanted[1]);
		if (sight.nr_wanted[1])
			bits_clear(&sight.now.wanted[0]);
	}
	sight.nr_wanted[1] = sight.nr_wanted[0];
	sight.nr_wanted[0] = 0;
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
		begin_filling(pages);
	/* Nothing was noted, nobody has settled or waits: nothing to fill it with. */
	if (sight.next.pages && !sight.now.noted && !ksm_stat_unshared())
		take_over();
	rotate_wanted();
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
	sight.delay = 0;
	memset(sight.nr_wanted, 0, sizeof(sight.nr_wanted));
	memset(sight.glance, 0, sizeof(sight.glance));
	memset(ksm_sight_glance, 0, sizeof(ksm_sight_glance));
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
	return seen && !ksm_deny_sighting();
}

/**
 * ksm_sight_renew - a page still has a key that was noted
 * @key: which
 *
 * To be called for each page once in a pass: else it meets its own note. Where a filter
 * takes several passes to be filled, as somebody was left out, only the first one tells.
 *
 * Context: ksm_control held; does not sleep.
 * Return: whether a filter is being filled, and another page with @key was noted in it,
 * perhaps.
 */
bool ksm_sight_renew(u64 key)
{
	bool had;

	if (!sight.next.pages)
		return false;
	had = sightings_add(&sight.next, key);
	sight.next.noted += !had;
	return had && sight.filled_in == atomic_long_read(&ksm_stat.passes);
}

/**
 * ksm_sight_want - settled pages with a key shall be looked at
 * @key: which
 *
 * Context: ksm_control held; does not sleep.
 */
void ksm_sight_want(u64 key)
{
	u64 bits = ksm_glance_bits(key);

	sight.glance[ksm_glance_word(key)] |= bits;
	ksm_sight_glance[ksm_glance_word(key)] |= bits;
	if (sight.now.pages)
		wanted_add(&sight.now.wanted[0], key);
	if (sight.next.pages)
		wanted_add(&sight.next.wanted[0], key);
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
 * ksm_sight_looks_for - whether a key is wanted that seems to be so at a glance
 * @key: which, for ksm_sight_wanted()
 *
 * Context: ksm_control held; does not sleep.
 * Return: true if it is, and for some other keys.
 */
bool ksm_sight_looks_for(u64 key)
{
	return !sight.now.pages || wanted_has(&sight.now.wanted[0], key) ||
	       wanted_has(&sight.now.wanted[1], key);
}
