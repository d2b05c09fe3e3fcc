// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit test of the page records against a model.
 *
 * The model is a sorted table of pages, some in clusters that share blocks, at
 * both ends of the address space among others, and some alone in their block.
 */
#include <linux/prandom.h>
#include <linux/sched.h>
#include <linux/sort.h>

#include "track_test.h"

#define NR_CLUSTERS	4
#define CLUSTER_PAGES	(4 * KSM_BLOCK_PAGES)
#define NR_LONERS	512
#define NR_PAGES	(NR_CLUSTERS * CLUSTER_PAGES + NR_LONERS)
#define NR_OPS		1000000
/* Operations between two looks at everything. */
#define NR_OPS_PHASE	10000

struct model_block {
	struct ksm_block *block;	/* NULL: none */
	unsigned int used;
};

struct model_page {
	unsigned long addr;
	struct model_block *block;
	enum ksm_state state;
	u64 word;
};

struct model {
	struct rnd_state rnd;
	unsigned int nr_pages;
	unsigned long nr_blocks;
	unsigned long nr[KSM_NR_STATES];
	struct model_page pages[NR_PAGES];
	struct model_block blocks[NR_PAGES];
};

static unsigned long random_ulong(struct model *model)
{
	u64 high = prandom_u32_state(&model->rnd);

	return high << 32 | prandom_u32_state(&model->rnd);
}

static u32 random_below(struct model *model, u32 end)
{
	return prandom_u32_state(&model->rnd) % end;
}

static int compare_pages(const void *a, const void *b)
{
	unsigned long x = ((const struct model_page *)a)->addr;
	unsigned long y = ((const struct model_page *)b)->addr;

	return x < y ? -1 : x > y;
}

static unsigned long cluster_start(struct model *model, unsigned int cluster)
{
	switch (cluster) {
	case 0:
		return 0;
	case 1:	/* ends with the address space */
		return LAST_PAGE - nth_page(CLUSTER_PAGES - 1);
	case 2:	/* across the middle */
		return ULONG_MAX / 2 + 1 - nth_page(CLUSTER_PAGES / 2);
	default: /* not aligned to blocks, and far enough from the ends */
		return (random_ulong(model) / 4 & PAGE_MASK) + nth_page(5 + CLUSTER_PAGES);
	}
}

static struct model *alloc_model(struct kunit *test, u64 seed)
{
	struct model *model = kunit_kzalloc(test, sizeof(*model), GFP_KERNEL);
	const unsigned int shift = PAGE_SHIFT + KSM_BLOCK_SHIFT;
	unsigned int i, j, nr = 0;

	KUNIT_ASSERT_NOT_NULL(test, model);
	prandom_seed_state(&model->rnd, seed);
	for (i = 0; i < NR_CLUSTERS; i++) {
		unsigned long start = cluster_start(model, i);

		for (j = 0; j < CLUSTER_PAGES; j++)
			model->pages[nr++].addr = start + nth_page(j);
	}
	while (nr < NR_PAGES)
		model->pages[nr++].addr = random_ulong(model) & PAGE_MASK;
	sort(model->pages, nr, sizeof(model->pages[0]), compare_pages, NULL);

	model->nr_pages = 1;
	for (i = 1; i < nr; i++)
		if (model->pages[i].addr != model->pages[model->nr_pages - 1].addr)
			model->pages[model->nr_pages++].addr = model->pages[i].addr;
	/* Pages of one block share the model's block of the first of them. */
	model->pages[0].block = &model->blocks[0];
	for (i = 1; i < model->nr_pages; i++) {
		struct model_page *mp = &model->pages[i];

		mp->block = mp->addr >> shift == mp[-1].addr >> shift ? mp[-1].block :
									&model->blocks[i];
	}
	return model;
}

/* The first page of the table at or behind an address; may be its end. */
static struct model_page *lower_bound(struct model *model, unsigned long addr)
{
	unsigned int low = 0, high = model->nr_pages;

	while (low < high) {
		unsigned int mid = (low + high) / 2;

		if (model->pages[mid].addr < addr)
			low = mid + 1;
		else
			high = mid;
	}
	return &model->pages[low];
}

static struct model_page *model_next(struct model *model, unsigned long addr, unsigned long last)
{
	struct model_page *mp = lower_bound(model, addr);

	for (; mp < &model->pages[model->nr_pages] && mp->addr <= last; mp++)
		if (mp->state != KSM_UNSEEN)
			return mp;
	return NULL;
}

static void model_set(struct model *model, struct model_page *mp, enum ksm_state state, u64 word)
{
	if (mp->state != KSM_UNSEEN) {
		mp->block->used--;
		model->nr[mp->state]--;
	}
	if (state != KSM_UNSEEN) {
		mp->block->used++;
		model->nr[state]++;
	}
	mp->state = state;
	mp->word = word;
}

static void model_trim(struct model *model, unsigned long addr, unsigned long last)
{
	unsigned long first_block = addr & ~(KSM_BLOCK_SIZE - 1);
	unsigned long last_block = last | (KSM_BLOCK_SIZE - 1);
	struct model_page *mp = lower_bound(model, first_block);

	for (; mp < &model->pages[model->nr_pages] && mp->addr <= last_block; mp++) {
		if (!mp->block->block || mp->block->used)
			continue;
		mp->block->block = NULL;
		model->nr_blocks--;
	}
}

static bool counters_match(struct track_test *tt, const struct model *model)
{
	unsigned long nr_records = 0;
	enum ksm_state state;

	for (state = KSM_UNSEEN; state < KSM_NR_STATES; state++) {
		if (tt->track.nr[state] != model->nr[state] ||
		    atomic_long_read(&tt->totals[state]) != model->nr[state])
			return false;
		nr_records += model->nr[state];
	}
	return ksm_track_records(&tt->track) == nr_records &&
	       tt->track.nr_blocks == model->nr_blocks && tt->nr_live == model->nr_blocks;
}

static bool page_matches(struct track_test *tt, const struct model_page *mp)
{
	struct ksm_record rec;
	bool found = ksm_track_find(&tt->track, mp->addr, &rec);

	if (ksm_track_block(&tt->track, mp->addr) != mp->block->block)
		return false;
	if (!found)
		return mp->state == KSM_UNSEEN;
	return rec.block == mp->block->block && rec.block->used == mp->block->used &&
	       ksm_record_state(rec) == mp->state &&
	       (mp->state == KSM_UNSEEN || ksm_record_word(rec).key == mp->word);
}

/* Finds exactly the model's next record, or none and leaves the address. */
static bool next_matches(struct track_test *tt, struct model *model, unsigned long *addr,
			 unsigned long last, struct model_page **next)
{
	unsigned long start = *addr;
	struct ksm_record rec;

	*next = model_next(model, start, last);
	if (!ksm_track_next(&tt->track, addr, last, &rec))
		return !*next && *addr == start;
	return *next && *addr == (*next)->addr && rec.block == (*next)->block->block &&
	       ksm_record_state(rec) == (*next)->state &&
	       ksm_record_word(rec).key == (*next)->word;
}

static bool range_matches(struct track_test *tt, struct model *model, unsigned long addr,
			  unsigned long last)
{
	struct model_page *next;

	for (;;) {
		if (!next_matches(tt, model, &addr, last, &next))
			return false;
		if (!next || last - addr < PAGE_SIZE)
			return true;
		addr += PAGE_SIZE;
	}
}

static bool all_matches(struct track_test *tt, struct model *model)
{
	unsigned int i;

	for (i = 0; i < model->nr_pages; i++)
		if (!page_matches(tt, &model->pages[i]))
			return false;
	return range_matches(tt, model, 0, ULONG_MAX) && counters_match(tt, model);
}

/* From any page of the table; mostly short, to any byte of the last page. */
static void random_range(struct model *model, unsigned long *addr, unsigned long *last)
{
	/* Half of the time the first byte. */
	unsigned long offset = random_below(model, 2) * random_below(model, PAGE_SIZE);
	unsigned long length = nth_page(random_below(model, 200)) + offset;

	*addr = model->pages[random_below(model, model->nr_pages)].addr;
	if (random_below(model, 64) == 0)
		length = random_ulong(model);
	*last = *addr + min(length, ULONG_MAX - *addr);
}

static bool step_put(struct kunit *test, struct model *model, struct model_page *mp)
{
	enum ksm_state state = KSM_UNSEEN + 1 + random_below(model, KSM_NR_STATES - 1);
	union ksm_word word = { .key = random_ulong(model) };
	struct track_test *tt = test->priv;
	u32 luck = random_below(model, 16);
	struct ksm_record rec;
	int err;

	if (luck < 2) {
		err = ksm_get_without_memory(test, mp->addr, luck, &rec);
		if (err)
			return err == -ENOMEM && mp->state == KSM_UNSEEN;
	} else {
		err = ksm_track_get(&tt->track, mp->addr, GFP_KERNEL, &rec);
	}
	if (err)
		return false;
	/* It may have been made anew to get more room. */
	if (!mp->block->block)
		model->nr_blocks++;
	mp->block->block = rec.block;
	if (!page_matches(tt, mp))
		return false;
	ksm_track_set(&tt->track, rec, state, word);
	model_set(model, mp, state, word.key);
	return true;
}

static bool step_drop(struct track_test *tt, struct model *model, struct model_page *mp)
{
	struct ksm_record rec;

	if (!page_matches(tt, mp))
		return false;
	if (ksm_track_find(&tt->track, mp->addr, &rec)) {
		ksm_track_set(&tt->track, rec, KSM_UNSEEN, (union ksm_word){ .key = 0 });
		model_set(model, mp, KSM_UNSEEN, 0);
	}
	return true;
}

/* Each owner of the range is taken back once, in order. */
static struct {
	struct model *model;
	struct model_page *next;
	bool fine;
} taking;

static void skip_to_owner(void)
{
	const struct model_page *end = &taking.model->pages[taking.model->nr_pages];

	while (taking.next < end && taking.next->state != KSM_CANDIDATE &&
	       taking.next->state != KSM_MERGED)
		taking.next++;
}

static bool take_next(struct ksm_track *track, unsigned long addr, struct ksm_record rec,
		      void *arg)
{
	const struct model_page *end = &taking.model->pages[taking.model->nr_pages];

	skip_to_owner();
	taking.fine &= taking.next < end && taking.next->addr == addr &&
		       taking.next->state == ksm_record_state(rec) &&
		       taking.next->word == ksm_record_word(rec).key;
	taking.next++;
	return true;
}

static bool step_forget(struct track_test *tt, struct model *model, unsigned long addr,
			unsigned long last)
{
	struct model_page *mp = lower_bound(model, addr & PAGE_MASK);

	taking.model = model;
	taking.next = mp;
	taking.fine = true;
	ksm_track_forget(&tt->track, addr, last, take_next, NULL);
	skip_to_owner();
	/* None is left out. */
	if (taking.next < &model->pages[model->nr_pages] && taking.next->addr <= last)
		return false;
	for (; mp < &model->pages[model->nr_pages] && mp->addr <= last; mp++)
		model_set(model, mp, KSM_UNSEEN, 0);
	model_trim(model, addr, last);
	return taking.fine;
}

/* One operation; @grow: rather more records than fewer. */
static bool random_step(struct kunit *test, struct model *model, bool grow)
{
	struct model_page *mp = &model->pages[random_below(model, model->nr_pages)];
	struct track_test *tt = test->priv;
	u32 choice = random_below(model, 16);
	unsigned long addr, last;
	bool fine = true;

	if (choice < (grow ? 10 : 1)) {
		fine = step_put(test, model, mp);
	} else if (choice < 13) {
		fine = step_drop(tt, model, mp);
	} else {
		struct model_page *next;

		random_range(model, &addr, &last);
		if (choice < 15) {
			fine = next_matches(tt, model, &addr, last, &next);
		} else if (random_below(model, 4) == 0) {
			fine = step_forget(tt, model, addr, last);
		} else {
			ksm_track_trim(&tt->track, addr, last);
			model_trim(model, addr, last);
		}
	}
	return fine && page_matches(tt, mp) && counters_match(tt, model);
}

static void million_random_operations_match_model(struct kunit *test)
{
	const u64 seed = 0x6b736d0000000002;
	struct model *model = alloc_model(test, seed);
	struct track_test *tt = test->priv;
	unsigned long addr, last, most = 0;
	unsigned int i;

	for (i = 1; i <= NR_OPS; i++) {
		if (!random_step(test, model, i / NR_OPS_PHASE % 4 < 2))
			break;
		most = max(most, model->nr_blocks);
		if (i % 1024 == 0)
			cond_resched();
		if (i % NR_OPS_PHASE)
			continue;
		random_range(model, &addr, &last);
		if (!all_matches(tt, model) || !range_matches(tt, model, addr, last))
			break;
	}
	KUNIT_ASSERT_GT_MSG(test, i, NR_OPS, "seed %#llx, operation %u", seed, i);
	/* It did grow. */
	KUNIT_EXPECT_GT(test, most, NR_LONERS / 2);

	for (i = 0; i < model->nr_pages; i++)
		KUNIT_ASSERT_TRUE(test, step_drop(tt, model, &model->pages[i]));
	KUNIT_EXPECT_TRUE(test, all_matches(tt, model));
	KUNIT_EXPECT_EQ(test, ksm_track_records(&tt->track), 0);
	ksm_track_trim(&tt->track, 0, ULONG_MAX);
	KUNIT_EXPECT_TRUE(test, xa_empty(&tt->track.blocks));
	KUNIT_EXPECT_EQ(test, tt->track.nr_blocks, 0);
	KUNIT_EXPECT_EQ(test, tt->nr_live, 0);
}

static struct kunit_case track_model_cases[] = {
	KUNIT_CASE_SLOW(million_random_operations_match_model),
	{}
};

static struct kunit_suite track_model_suite = {
	.name = "ksm_track_model",
	.init = ksm_track_test_init,
	.exit = ksm_track_test_exit,
	.test_cases = track_model_cases,
};

kunit_test_suite(track_model_suite);
