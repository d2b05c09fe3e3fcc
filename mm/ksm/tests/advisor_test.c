// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of the scan-time advisor's arithmetic.
 *
 * It is tried on machines that are figures only: looking at a page takes so
 * long, and a sleep after each so many pages takes so long. Advice for a pass
 * is made from how the pass before would have gone there.
 */
#include <kunit/test.h>
#include <linux/math64.h>
#include <linux/prandom.h>
#include <linux/sched.h>

#include "../ksm.h"

/* Passes until the advice no longer depends on where it began. */
#define SETTLE_PASSES	64

struct settings {
	typeof(ksm_advisor_max_cpu) max_cpu;
	typeof(ksm_advisor_min_pages) min_pages;
	typeof(ksm_advisor_max_pages) max_pages;
	typeof(ksm_advisor_target_secs) target_secs;
};

struct machine {
	u64 pages;
	u64 page_ns;
	u64 sleep_ns;
};

static void read_settings(struct settings *set)
{
	set->max_cpu = ksm_advisor_max_cpu;
	set->min_pages = ksm_advisor_min_pages;
	set->max_pages = ksm_advisor_max_pages;
	set->target_secs = ksm_advisor_target_secs;
}

static void write_settings(const struct settings *set)
{
	WRITE_ONCE(ksm_advisor_max_cpu, set->max_cpu);
	WRITE_ONCE(ksm_advisor_min_pages, set->min_pages);
	WRITE_ONCE(ksm_advisor_max_pages, set->max_pages);
	WRITE_ONCE(ksm_advisor_target_secs, set->target_secs);
}

/* The system's own settings are back when this returns. */
static unsigned long advise(const struct settings *set, unsigned long pages, u64 wall_ns,
			    u64 cpu_ns)
{
	struct settings own;
	unsigned long advice;

	guard(mutex)(&ksm_control);
	read_settings(&own);
	write_settings(set);
	advice = ksm_advise(pages, wall_ns, cpu_ns);
	write_settings(&own);
	return advice;
}

static u64 cpu_ns_of(const struct machine *m)
{
	return m->pages * m->page_ns;
}

/* The sleep after the last turn is no part of the pass. */
static u64 wall_ns_of(const struct machine *m, unsigned long pages)
{
	u64 turns = div64_u64(m->pages + pages - 1, pages);

	return cpu_ns_of(m) + (turns - 1) * m->sleep_ns;
}

static unsigned long next_advice(const struct settings *set, const struct machine *m,
				 unsigned long pages)
{
	return advise(set, pages, wall_ns_of(m, pages), cpu_ns_of(m));
}

static unsigned long settle(const struct settings *set, const struct machine *m,
			    unsigned long pages)
{
	unsigned int i;

	for (i = 0; i < SETTLE_PASSES; i++)
		pages = next_advice(set, m, pages);
	return pages;
}

/* In thousandths, so that some percent can be told from each other. */
static u64 cpu_permille(const struct machine *m, unsigned long pages)
{
	return div64_u64(cpu_ns_of(m) * 1000, wall_ns_of(m, pages));
}

struct reachable {
	const char *name;
	struct machine m;
	unsigned long target_secs;
};

static const struct reachable reachable_params[] = {
	{ "defaults_with_256_GiB", { 1 << 26, 1000, 20 * NSEC_PER_MSEC }, 200 },
	{ "4_GiB_in_10_seconds", { 1 << 20, 700, 20 * NSEC_PER_MSEC }, 10 },
	{ "1_GiB_in_2_seconds", { 1 << 18, 2000, 4 * NSEC_PER_MSEC }, 2 },
	{ "4_TiB_mostly_busy", { 1 << 30, 150, 20 * NSEC_PER_MSEC }, 200 },
	{ "long_sleeps", { 1 << 24, 1000, NSEC_PER_SEC }, 3600 },
	{ "pages_that_cost_nothing", { 1 << 24, 1, 20 * NSEC_PER_MSEC }, 100 },
};

static void describe_reachable(const struct reachable *r, char *desc)
{
	strscpy(desc, r->name, KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(reachable, reachable_params, describe_reachable);

static void pass_comes_to_take_the_target_time(struct kunit *test)
{
	static const unsigned long starts[] = { 1, 500, 30000, 10000000 };
	const struct reachable *r = test->param_value;
	const struct settings set = {
		.max_cpu = 95, .min_pages = 1, .max_pages = 10000000,
		.target_secs = r->target_secs,
	};
	u64 target_ns = (u64)r->target_secs * NSEC_PER_SEC;
	unsigned int i, j;

	for (i = 0; i < ARRAY_SIZE(starts); i++) {
		unsigned long pages = settle(&set, &r->m, starts[i]);

		/* And stays: within three percent in each pass from then on. */
		for (j = 0; j < 8; j++) {
			u64 wall_ns = wall_ns_of(&r->m, pages);

			KUNIT_EXPECT_LE_MSG(test, abs_diff(wall_ns, target_ns), target_ns / 33,
					    "%lu pages, from %lu", pages, starts[i]);
			pages = next_advice(&set, &r->m, pages);
		}
	}
}

static void target_that_is_too_short_leads_to_the_maximum(struct kunit *test)
{
	const struct machine m = { 1 << 26, 100, 20 * NSEC_PER_MSEC };
	struct settings set = { .max_cpu = 99, .min_pages = 500, .target_secs = 1 };

	/* Even without sleeps a pass would take seven seconds. */
	for (set.max_pages = 1000; set.max_pages <= 1000000; set.max_pages *= 10) {
		unsigned long pages = set.min_pages, next, nr_wrong = 0;
		unsigned int i;

		for (i = 0; i < SETTLE_PASSES; i++, pages = next) {
			next = next_advice(&set, &m, pages);
			nr_wrong += next < pages || next > set.max_pages;
		}
		KUNIT_EXPECT_EQ(test, pages, set.max_pages);
		KUNIT_EXPECT_EQ(test, nr_wrong, 0);
	}
}

static void target_that_is_too_long_leads_to_the_minimum(struct kunit *test)
{
	const struct machine m = { 1 << 18, 1000, 20 * NSEC_PER_MSEC };
	struct settings set = { .max_cpu = 70, .max_pages = 30000, .target_secs = 100000 };

	for (set.min_pages = 1; set.min_pages <= 10000; set.min_pages *= 10)
		KUNIT_EXPECT_EQ(test, settle(&set, &m, 30000), set.min_pages);
}

static void minimum_wins_over_the_maximum(struct kunit *test)
{
	const struct machine m = { 1 << 18, 1000, 20 * NSEC_PER_MSEC };
	struct settings set = { .max_cpu = 70, .min_pages = 700, .max_pages = 600 };

	for (set.target_secs = 1; set.target_secs <= 1000; set.target_secs *= 10)
		KUNIT_EXPECT_EQ(test, settle(&set, &m, 100), 700);
}

/* Of two passes that are all the same but for one figure. */
static void one_odd_pass_moves_the_advice_halfway(struct kunit *test)
{
	const struct settings set = {
		.max_cpu = 99, .min_pages = 1, .max_pages = 30000, .target_secs = 10,
	};
	const u64 cpu_ns = NSEC_PER_SEC;

	/* As it should be; three times too slow; stopped for an hour; no time at all. */
	KUNIT_EXPECT_EQ(test, advise(&set, 1000, 10ULL * NSEC_PER_SEC, cpu_ns), 1000);
	KUNIT_EXPECT_EQ(test, advise(&set, 1000, 28ULL * NSEC_PER_SEC, cpu_ns), 2000);
	KUNIT_EXPECT_EQ(test, advise(&set, 1000, 3600ULL * NSEC_PER_SEC, cpu_ns), 15500);
	KUNIT_EXPECT_EQ(test, advise(&set, 1000, cpu_ns / 100, cpu_ns / 1000), 500);
}

static const unsigned int cpu_params[] = { 1, 2, 10, 50, 70, 90, 99 };

static void describe_cpu(const unsigned int *cpu, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "%u percent", *cpu);
}

KUNIT_ARRAY_PARAM(cpu, cpu_params, describe_cpu);

/* The target cannot be reached: all the CPU time that is allowed is used, no more. */
static void cpu_limit_is_used_up_and_kept(struct kunit *test)
{
	const unsigned int max_cpu = *(const unsigned int *)test->param_value;
	static const unsigned long starts[] = { 1, 500, 10000000 };
	const struct machine m = { 1 << 26, 1000, 20 * NSEC_PER_MSEC };
	const struct settings set = {
		.max_cpu = max_cpu, .min_pages = 1, .max_pages = 10000000, .target_secs = 1,
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(starts); i++) {
		unsigned long pages = settle(&set, &m, starts[i]);

		KUNIT_EXPECT_LE(test, cpu_permille(&m, pages), max_cpu * 10 + 2);
		KUNIT_EXPECT_GE(test, cpu_permille(&m, pages), max_cpu * 10 - max_cpu / 10 - 2);
	}
}

/* Unlike the way to the target, which is gone halfway each time. */
static void cpu_limit_is_kept_from_the_next_pass_on(struct kunit *test)
{
	const unsigned int max_cpu = *(const unsigned int *)test->param_value;
	const struct machine m = { 1 << 26, 1000, 20 * NSEC_PER_MSEC };
	const struct settings set = {
		.max_cpu = max_cpu, .min_pages = 1, .max_pages = 10000000, .target_secs = 1,
	};
	unsigned long pages = next_advice(&set, &m, 5000000);

	KUNIT_EXPECT_LE(test, cpu_permille(&m, pages), max_cpu * 10 + 2);
}

static void cpu_limit_of_0_leads_to_the_minimum_at_once(struct kunit *test)
{
	const struct machine m = { 1 << 26, 1000, 20 * NSEC_PER_MSEC };
	const struct settings set = {
		.max_cpu = 0, .min_pages = 500, .max_pages = 30000, .target_secs = 1,
	};

	KUNIT_EXPECT_EQ(test, next_advice(&set, &m, 500), 500);
	KUNIT_EXPECT_EQ(test, next_advice(&set, &m, 30000), 500);
}

static void cpu_limit_above_100_is_as_good_as_100(struct kunit *test)
{
	const struct machine m = { 1 << 26, 1000, 20 * NSEC_PER_MSEC };
	struct settings set = { .min_pages = 1, .max_pages = 10000000, .target_secs = 1 };
	unsigned long at_99, at_100;

	set.max_cpu = 99;
	at_99 = settle(&set, &m, 500);
	set.max_cpu = 100;
	at_100 = settle(&set, &m, 500);
	KUNIT_EXPECT_LE(test, at_99, at_100);
	set.max_cpu = 1000;
	KUNIT_EXPECT_EQ(test, settle(&set, &m, 500), at_100);
	set.max_cpu = -1;
	KUNIT_EXPECT_EQ(test, settle(&set, &m, 500), at_100);
}

static void shorter_target_never_means_fewer_pages(struct kunit *test)
{
	const struct machine m = { 1 << 24, 1000, 20 * NSEC_PER_MSEC };
	struct settings set = { .max_cpu = 70, .min_pages = 1, .max_pages = 30000 };
	static const unsigned long starts[] = { 1, 500, 30000 };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(starts); i++) {
		unsigned long last_next = ULONG_MAX, last_settled = ULONG_MAX;
		unsigned int nr_wrong = 0;

		for (set.target_secs = 1; set.target_secs < 4000; set.target_secs++) {
			unsigned long next = next_advice(&set, &m, starts[i]);
			unsigned long settled = settle(&set, &m, starts[i]);

			nr_wrong += next > last_next || settled > last_settled;
			last_next = next;
			last_settled = settled;
		}
		KUNIT_EXPECT_EQ_MSG(test, nr_wrong, 0, "from %lu", starts[i]);
		cond_resched();
	}
}

/* More nanoseconds than a u64 holds, and more seconds than an unsigned int. */
static void target_of_ages_is_a_long_one(struct kunit *test)
{
	static const u64 ages[] = { U32_MAX, 18446744073, 18446744074, U64_MAX };
	struct settings set = { .max_cpu = 70, .min_pages = 1, .max_pages = 30000 };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(ages); i++) {
		set.target_secs = (typeof(set.target_secs))min(ages[i], (u64)(unsigned long)-1);
		KUNIT_EXPECT_LE_MSG(test, advise(&set, 1000, 100ULL * NSEC_PER_SEC,
						 NSEC_PER_SEC), 501, "%llu s", ages[i]);
	}
}

/* ---- figures that no machine has ---- */

static const u64 times[] = {
	0, 1, NSEC_PER_SEC - 1, NSEC_PER_SEC, 1ULL << 61, U64_MAX / 100, U64_MAX / 99,
	U64_MAX / 2, U64_MAX / 2 + 1, U64_MAX - 1, U64_MAX,
};

static const unsigned long numbers[] = { 0, 1, 500, 30000, INT_MAX, UINT_MAX };

static const struct settings odd_settings[] = {
	{ 70, 500, 30000, 200 }, { 0, 500, 30000, 1 }, { 99, 0, 1, 1 }, { 100, 1, 0, 1 },
	{ 1000, 0, 0, 1 }, { 96, 0, -1, 1 }, { 50, 0, -1, -1 }, { -1, -1, -1, -1 },
	{ 68, -1, 0, 1 << 30 }, { 98, 1, UINT_MAX, 1 }, { 99, 1, UINT_MAX, UINT_MAX },
};

/* The minimum wins; without one, one page is the least. */
static bool advice_is_good(const struct settings *set, unsigned long advice)
{
	u64 least = set->min_pages, most = max3(set->max_pages, least, 1);

	return advice >= least && advice <= most && advice <= UINT_MAX;
}

static void advice_keeps_its_limits_whatever_the_figures(struct kunit *test)
{
	const unsigned int nr_times = ARRAY_SIZE(times);
	unsigned int i, j, k;

	for (i = 0; i < ARRAY_SIZE(odd_settings); i++) {
		const struct settings *set = &odd_settings[i];
		unsigned int nr_wrong = 0;

		for (j = 0; j < ARRAY_SIZE(numbers); j++) {
			for (k = 0; k < nr_times * nr_times; k++) {
				unsigned long advice = advise(set, numbers[j], times[k / nr_times],
							      times[k % nr_times]);

				nr_wrong += !advice_is_good(set, advice);
			}
		}
		KUNIT_EXPECT_EQ_MSG(test, nr_wrong, 0, "settings %u", i);
	}
}

/* Of any number of bits, so that small and large ones are met alike. */
static u64 random_u64(struct rnd_state *rnd)
{
	u64 high = prandom_u32_state(rnd), low = prandom_u32_state(rnd);

	return (high << 32 | low) >> (prandom_u32_state(rnd) % 64);
}

static void advice_keeps_its_limits_for_random_figures(struct kunit *test)
{
	unsigned int i, nr_wrong = 0;
	struct rnd_state rnd;

	prandom_seed_state(&rnd, 0x6b736d0000000011);
	for (i = 0; i < 200000; i++) {
		const struct settings set = {
			.max_cpu = random_u64(&rnd) % 128,
			.min_pages = (u32)random_u64(&rnd),
			.max_pages = (u32)random_u64(&rnd),
			.target_secs = max_t(u32, random_u64(&rnd), 1),
		};
		unsigned long pages = (u32)random_u64(&rnd);
		u64 wall_ns = random_u64(&rnd), cpu_ns = random_u64(&rnd);

		nr_wrong += !advice_is_good(&set, advise(&set, pages, wall_ns, cpu_ns));
		if (i % 1024 == 0)
			cond_resched();
	}
	KUNIT_EXPECT_EQ(test, nr_wrong, 0);
}

/* No pass would ever end, and so the advice never change. */
static void advice_is_never_to_scan_nothing(struct kunit *test)
{
	const struct machine m = { 1 << 18, 1000, 20 * NSEC_PER_MSEC };
	struct settings set = { .max_cpu = 70, .max_pages = 30000, .target_secs = 100000 };

	KUNIT_EXPECT_GE(test, settle(&set, &m, 30000), 1);
	KUNIT_EXPECT_GE(test, advise(&set, 0, NSEC_PER_SEC, 0), 1);
	set.target_secs = 1;
	set.max_cpu = 0;
	KUNIT_EXPECT_GE(test, next_advice(&set, &m, 1), 1);
	set.max_cpu = 70;
	set.max_pages = 0;
	KUNIT_EXPECT_GE(test, next_advice(&set, &m, 1), 1);
}

/* A pass that fits between two sleeps, or has no sleeps, tells nothing of them. */
static void pass_without_sleeps_does_not_lead_astray(struct kunit *test)
{
	const struct machine small = { 100, 1000, 20 * NSEC_PER_MSEC };
	const struct machine sleepless = { 1 << 20, 1000, 0 };
	const struct settings set = {
		.max_cpu = 70, .min_pages = 500, .max_pages = 30000, .target_secs = 2,
	};

	KUNIT_EXPECT_EQ(test, settle(&set, &small, 500), 500);
	KUNIT_EXPECT_EQ(test, settle(&set, &small, 30000), 500);
	KUNIT_EXPECT_EQ(test, settle(&set, &sleepless, 500), 500);
	KUNIT_EXPECT_EQ(test, settle(&set, &sleepless, 30000), 500);
}

static struct kunit_case advisor_cases[] = {
	KUNIT_CASE_PARAM(pass_comes_to_take_the_target_time, reachable_gen_params),
	KUNIT_CASE(target_that_is_too_short_leads_to_the_maximum),
	KUNIT_CASE(target_that_is_too_long_leads_to_the_minimum),
	KUNIT_CASE(minimum_wins_over_the_maximum),
	KUNIT_CASE(one_odd_pass_moves_the_advice_halfway),
	KUNIT_CASE_PARAM(cpu_limit_is_used_up_and_kept, cpu_gen_params),
	KUNIT_CASE_PARAM(cpu_limit_is_kept_from_the_next_pass_on, cpu_gen_params),
	KUNIT_CASE(cpu_limit_of_0_leads_to_the_minimum_at_once),
	KUNIT_CASE(cpu_limit_above_100_is_as_good_as_100),
	KUNIT_CASE(shorter_target_never_means_fewer_pages),
	KUNIT_CASE(target_of_ages_is_a_long_one),
	KUNIT_CASE(advice_keeps_its_limits_whatever_the_figures),
	KUNIT_CASE(advice_keeps_its_limits_for_random_figures),
	KUNIT_CASE(advice_is_never_to_scan_nothing),
	KUNIT_CASE(pass_without_sleeps_does_not_lead_astray),
	{}
};

static struct kunit_suite advisor_suite = {
	.name = "ksm_advisor",
	.test_cases = advisor_cases,
};

kunit_test_suite(advisor_suite);
