// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of the keyed checksum of a page.
 */
#include <kunit/test.h>
#include <linux/gfp.h>
#include <linux/highmem.h>
#include <linux/prandom.h>
#include <linux/sched.h>
#include <linux/sort.h>

#include "../ksm.h"

#define SECRET		0x243f6a8885a308d3
#define NR_WORDS	(PAGE_SIZE / sizeof(u64))
#define NR_BITS		(PAGE_SIZE * 8)

static u8 *alloc_bytes(struct kunit *test, size_t size)
{
	u8 *bytes = kunit_kzalloc(test, size, GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, bytes);
	return bytes;
}

static void fill_random(u8 *bytes, size_t size, u64 seed)
{
	struct rnd_state rnd;

	prandom_seed_state(&rnd, seed);
	prandom_bytes_state(&rnd, bytes, size);
}

static u8 *random_page(struct kunit *test, u64 seed)
{
	u8 *page = alloc_bytes(test, PAGE_SIZE);

	fill_random(page, PAGE_SIZE, seed);
	return page;
}

static int compare_u64(const void *a, const void *b)
{
	u64 x = *(const u64 *)a, y = *(const u64 *)b;

	return x < y ? -1 : x > y;
}

/* How many of @sums equal another one; sorts them. */
static unsigned int nr_collisions(u64 *sums, size_t nr)
{
	unsigned int nr_equal = 0;
	size_t i;

	sort(sums, nr, sizeof(*sums), compare_u64, NULL);
	for (i = 1; i < nr; i++)
		nr_equal += sums[i] == sums[i - 1];
	return nr_equal;
}

static u64 *alloc_sums(struct kunit *test, size_t nr)
{
	u64 *sums = kunit_kcalloc(test, nr, sizeof(*sums), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, sums);
	return sums;
}

static void equal_pages_have_equal_checksums(struct kunit *test)
{
	unsigned int i;

	for (i = 0; i < 100; i++) {
		u8 *a = random_page(test, i), *b = alloc_bytes(test, PAGE_SIZE);

		memcpy(b, a, PAGE_SIZE);
		KUNIT_EXPECT_EQ_MSG(test, ksm_checksum(a, SECRET, NULL),
				    ksm_checksum(b, SECRET, NULL), "seed %u", i);
	}
}

static void checksum_does_not_write(struct kunit *test)
{
	u8 *page = random_page(test, 1), *copy = alloc_bytes(test, PAGE_SIZE);

	memcpy(copy, page, PAGE_SIZE);
	KUNIT_EXPECT_EQ(test, ksm_checksum(page, SECRET, NULL), ksm_checksum(page, SECRET, NULL));
	KUNIT_EXPECT_MEMEQ(test, page, copy, PAGE_SIZE);
}

/* Also tells apart any two of the pages, which differ in two bits. */
static void every_flipped_bit_makes_another_checksum(struct kunit *test)
{
	u8 *page = random_page(test, 2);
	u64 *sums = alloc_sums(test, NR_BITS + 1);
	u64 sum = ksm_checksum(page, SECRET, NULL);
	unsigned int i, nr_unchanged = 0;

	for (i = 0; i < NR_BITS; i++) {
		page[i / 8] ^= BIT(i % 8);
		sums[i] = ksm_checksum(page, SECRET, NULL);
		page[i / 8] ^= BIT(i % 8);
		nr_unchanged += sums[i] == sum;
		if (i % 4096 == 0)
			cond_resched();
	}
	sums[NR_BITS] = sum;
	KUNIT_EXPECT_EQ(test, nr_unchanged, 0);
	KUNIT_EXPECT_EQ(test, nr_collisions(sums, NR_BITS + 1), 0);
	KUNIT_EXPECT_EQ(test, ksm_checksum(page, SECRET, NULL), sum);
}

static void different_secrets_make_different_checksums(struct kunit *test)
{
	u8 *page = random_page(test, 3);
	u64 *sums = alloc_sums(test, 65 + 1000);
	unsigned int i;

	/* The secret itself, each of its bits flipped, and small ones. */
	sums[64] = ksm_checksum(page, SECRET, NULL);
	for (i = 0; i < 64; i++)
		sums[i] = ksm_checksum(page, SECRET ^ BIT_ULL(i), NULL);
	for (i = 0; i < 1000; i++)
		sums[65 + i] = ksm_checksum(page, i, NULL);
	KUNIT_EXPECT_EQ(test, nr_collisions(sums, 65 + 1000), 0);
}

static void two_swapped_words_make_another_checksum(struct kunit *test)
{
	const u64 seed = 4;
	u64 *words = (u64 *)random_page(test, seed);
	u64 *sums = alloc_sums(test, NR_WORDS);
	u64 sum = ksm_checksum(words, SECRET, NULL);
	unsigned int i, far, nr_unchanged = 0;

	/* Neighbours, same lane of the next stripe, and further. */
	for (far = 1; far < NR_WORDS; far *= 2) {
		for (i = 0; i + far < NR_WORDS; i++) {
			swap(words[i], words[i + far]);
			nr_unchanged += ksm_checksum(words, SECRET, NULL) == sum;
			swap(words[i], words[i + far]);
		}
		cond_resched();
	}
	KUNIT_EXPECT_EQ_MSG(test, nr_unchanged, 0, "seed %llu", seed);

	/* One word in an empty page, at each place. */
	memset(words, 0, PAGE_SIZE);
	for (i = 0; i < NR_WORDS; i++) {
		words[i] = SECRET;
		sums[i] = ksm_checksum(words, SECRET, NULL);
		words[i] = 0;
	}
	KUNIT_EXPECT_EQ(test, nr_collisions(sums, NR_WORDS), 0);
}

static void uniform_pages_have_different_checksums(struct kunit *test)
{
	u8 *page = alloc_bytes(test, PAGE_SIZE);
	u64 *sums = alloc_sums(test, 256);
	unsigned int i;

	for (i = 0; i < 256; i++) {
		memset(page, i, PAGE_SIZE);
		sums[i] = ksm_checksum(page, SECRET, NULL);
	}
	KUNIT_EXPECT_EQ(test, nr_collisions(sums, 256), 0);
}

static void bytes_outside_the_page_do_not_count(struct kunit *test)
{
	u8 *bytes = alloc_bytes(test, 3 * PAGE_SIZE);
	u64 sum;

	fill_random(bytes, 3 * PAGE_SIZE, 5);
	sum = ksm_checksum(bytes + PAGE_SIZE, SECRET, NULL);
	memset(bytes, 0, PAGE_SIZE);
	memset(bytes + 2 * PAGE_SIZE, 0, PAGE_SIZE);
	KUNIT_EXPECT_EQ(test, ksm_checksum(bytes + PAGE_SIZE, SECRET, NULL), sum);
}

/* The forest takes its trees by the top bits and orders by the rest. */
static void checksums_of_similar_pages_spread_evenly(struct kunit *test)
{
	u64 *words = (u64 *)alloc_bytes(test, PAGE_SIZE);
	unsigned int high[64] = {}, low[64] = {};
	unsigned int i, nr_uneven = 0;

	for (i = 0; i < 64 * 64; i++) {
		u64 sum;

		words[NR_WORDS / 2] = i;
		sum = ksm_checksum(words, SECRET, NULL);
		high[sum >> 58]++;
		low[sum & 63]++;
	}
	/* Mean 64, standard deviation 8; the draw is always the same. */
	for (i = 0; i < 64; i++)
		nr_uneven += high[i] < 24 || high[i] > 104 || low[i] < 24 || low[i] > 104;
	KUNIT_EXPECT_EQ(test, nr_uneven, 0);
}

static void free_test_pages(void *page)
{
	__free_pages(page, 2);
}

static void page_checksum_is_keyed_with_the_boot_secret(struct kunit *test)
{
	struct page *pages = alloc_pages(GFP_KERNEL | __GFP_COMP, 2);
	unsigned int i;
	u64 sum;

	KUNIT_ASSERT_NOT_NULL(test, pages);
	KUNIT_ASSERT_EQ(test, kunit_add_action_or_reset(test, free_test_pages, pages), 0);
	/* Each page of a large folio for itself. */
	for (i = 0; i < 4; i++) {
		u8 *data = random_page(test, 6 + i);

		memcpy_to_page(pages + i, 0, data, PAGE_SIZE);
		sum = ksm_page_checksum(pages + i, NULL);
		KUNIT_EXPECT_EQ(test, sum, ksm_checksum(data, ksm_checksum_secret, NULL));
		KUNIT_EXPECT_NE(test, sum, ksm_checksum(data, ~ksm_checksum_secret, NULL));
		/* Whatever comes next. */
		KUNIT_EXPECT_EQ(test, sum, ksm_page_checksum(pages + i, pages + (i + 1) % 4));
	}
}

static void zero_page_has_the_checksum_of_zeros(struct kunit *test)
{
	u8 *zeros = alloc_bytes(test, PAGE_SIZE);
	u64 sum = ksm_page_checksum(ZERO_PAGE(0), NULL);

	KUNIT_EXPECT_EQ(test, sum, ksm_checksum(zeros, ksm_checksum_secret, NULL));
	zeros[PAGE_SIZE - 1] = 1;
	KUNIT_EXPECT_NE(test, sum, ksm_checksum(zeros, ksm_checksum_secret, NULL));
}

/* A good draw is zero once in 2^64 boots. */
static void boot_secret_is_drawn(struct kunit *test)
{
	KUNIT_EXPECT_NE(test, ksm_checksum_secret, 0);
}

static struct kunit_case checksum_cases[] = {
	KUNIT_CASE(equal_pages_have_equal_checksums),
	KUNIT_CASE(checksum_does_not_write),
	KUNIT_CASE(every_flipped_bit_makes_another_checksum),
	KUNIT_CASE(different_secrets_make_different_checksums),
	KUNIT_CASE(two_swapped_words_make_another_checksum),
	KUNIT_CASE(uniform_pages_have_different_checksums),
	KUNIT_CASE(bytes_outside_the_page_do_not_count),
	KUNIT_CASE(checksums_of_similar_pages_spread_evenly),
	KUNIT_CASE(page_checksum_is_keyed_with_the_boot_secret),
	KUNIT_CASE(zero_page_has_the_checksum_of_zeros),
	KUNIT_CASE(boot_secret_is_drawn),
	{}
};

static struct kunit_suite checksum_suite = {
	.name = "ksm_checksum",
	.test_cases = checksum_cases,
};

kunit_test_suite(checksum_suite);
