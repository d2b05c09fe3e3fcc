// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of the forest.
 *
 * The model of a forest is a sorted table of distinct keys, each with the list
 * of its nodes in order of insertion, at the end or at the front. Walking the
 * trees root by root must give exactly the nodes of the model, table entry by
 * table entry.
 */
#include <kunit/test.h>
#include <linux/list.h>
#include <linux/prandom.h>
#include <linux/sched.h>
#include <linux/sizes.h>
#include <linux/sort.h>

#include "../ksm.h"

#define NR_KEYS		1024
/* Keys that are drawn half of the time, so that they have many nodes. */
#define NR_HOT_KEYS	8
#define NR_NODES	4096
#define NR_OPS		1000000
/* Operations between two looks at the whole forest. */
#define NR_OPS_PHASE	10000
#define MAX_BITS	14

struct model_key {
	u64 key;
	struct list_head nodes;
};

struct model_node {
	struct ksm_node node;
	struct model_key *key;	/* NULL: not linked */
	struct list_head link;
};

struct forest_test {
	struct ksm_forest forest;
	struct rnd_state rnd;
	u64 seed;
	unsigned int nr_keys;
	unsigned int nr_linked;
	struct model_key keys[NR_KEYS];
	struct model_node nodes[NR_NODES];
};

static u64 random_u64(struct rnd_state *rnd)
{
	u64 high = prandom_u32_state(rnd);

	return high << 32 | prandom_u32_state(rnd);
}

static u32 random_below(struct rnd_state *rnd, u32 end)
{
	return prandom_u32_state(rnd) % end;
}

static int compare_keys(const void *a, const void *b)
{
	u64 x = ((const struct model_key *)a)->key;
	u64 y = ((const struct model_key *)b)->key;

	return x < y ? -1 : x > y;
}

/* Distinct keys: the ends of the range, close neighbours, the rest anywhere. */
static void draw_keys(struct forest_test *ft)
{
	unsigned int i, nr = 1;

	for (i = 0; i < NR_KEYS; i++) {
		u64 key = random_u64(&ft->rnd);

		if (i < 4)
			key = i;
		else if (i < 8)
			key = U64_MAX - (i - 4);
		else if (i % 4 == 0)
			key = ft->keys[i - 1].key ^ BIT_ULL(random_below(&ft->rnd, 64));
		ft->keys[i].key = key;
	}
	sort(ft->keys, NR_KEYS, sizeof(ft->keys[0]), compare_keys, NULL);
	for (i = 1; i < NR_KEYS; i++)
		if (ft->keys[i].key != ft->keys[nr - 1].key)
			ft->keys[nr++].key = ft->keys[i].key;
	for (i = 0; i < nr; i++)
		INIT_LIST_HEAD(&ft->keys[i].nodes);
	ft->nr_keys = nr;
}

static struct ksm_root *alloc_roots(struct kunit *test, unsigned int bits)
{
	struct ksm_root *roots = kunit_kmalloc_array(test, 1UL << bits, sizeof(*roots),
						     GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, roots);
	/* What planting must overwrite. */
	memset(roots, 0xa5, sizeof(*roots) << bits);
	return roots;
}

static struct forest_test *plant(struct kunit *test, unsigned int bits, u64 seed)
{
	struct forest_test *ft = kunit_kzalloc(test, sizeof(*ft), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, ft);
	ft->seed = seed;
	prandom_seed_state(&ft->rnd, seed);
	draw_keys(ft);
	ksm_forest_plant(&ft->forest, alloc_roots(test, bits), bits);
	return ft;
}

static void link_node(struct forest_test *ft, struct model_node *mn, struct model_key *mk)
{
	struct ksm_root *root = ksm_forest_root(&ft->forest, mk->key);

	mn->node.key = mk->key;
	mn->key = mk;
	list_add_tail(&mn->link, &mk->nodes);
	ft->nr_linked++;
	guard(spinlock)(&root->lock);
	ksm_root_insert(root, &mn->node);
}

static void link_node_first(struct forest_test *ft, struct model_node *mn, struct model_key *mk)
{
	struct ksm_root *root = ksm_forest_root(&ft->forest, mk->key);

	mn->node.key = mk->key;
	mn->key = mk;
	list_add(&mn->link, &mk->nodes);
	ft->nr_linked++;
	guard(spinlock)(&root->lock);
	ksm_root_insert_first(root, &mn->node);
}

static void unlink_node(struct forest_test *ft, struct model_node *mn)
{
	struct ksm_root *root = ksm_forest_root(&ft->forest, mn->node.key);

	list_del(&mn->link);
	mn->key = NULL;
	ft->nr_linked--;
	guard(spinlock)(&root->lock);
	ksm_root_erase(root, &mn->node);
}

/* Are find and next_equal of one mind with the model about a key? */
static bool key_matches(struct forest_test *ft, struct model_key *mk)
{
	struct ksm_root *root = ksm_forest_root(&ft->forest, mk->key);
	struct ksm_node *node;
	struct model_node *mn;

	guard(spinlock)(&root->lock);
	node = ksm_root_find(root, mk->key);
	list_for_each_entry(mn, &mk->nodes, link) {
		if (node != &mn->node)
			return false;
		node = ksm_node_next_equal(node);
	}
	return !node;
}

static bool finds_first(struct forest_test *ft, struct model_key *mk)
{
	struct ksm_root *root = ksm_forest_root(&ft->forest, mk->key);
	struct model_node *mn = list_first_entry_or_null(&mk->nodes, struct model_node, link);

	guard(spinlock)(&root->lock);
	return ksm_root_find(root, mk->key) == (mn ? &mn->node : NULL);
}

static bool finds_nothing(const struct ksm_forest *forest, u64 key)
{
	struct ksm_root *root = ksm_forest_root(forest, key);

	guard(spinlock)(&root->lock);
	return !ksm_root_find(root, key);
}

/* The first node in the roots from *@i on; leaves *@i at its root. */
static struct rb_node *first_from(const struct ksm_forest *forest, unsigned long *i)
{
	struct rb_node *rb = NULL;

	for (; *i < 1UL << forest->bits; ++*i) {
		rb = rb_first(&forest->roots[*i].tree);
		if (rb)
			break;
	}
	return rb;
}

/* Does a walk over all trees give the model's nodes, in the model's order? */
static bool walk_matches(struct forest_test *ft)
{
	unsigned long root = 0;
	unsigned int nr = 0, i;
	struct rb_node *rb = first_from(&ft->forest, &root);

	for (i = 0; i < ft->nr_keys; i++) {
		struct model_node *mn;

		list_for_each_entry(mn, &ft->keys[i].nodes, link) {
			if (rb != &mn->node.rb || mn->node.key != ft->keys[i].key)
				return false;
			nr++;
			rb = rb_next(rb);
			if (rb)
				continue;
			root++;
			rb = first_from(&ft->forest, &root);
		}
	}
	return !rb && nr == ft->nr_linked;
}

static bool forest_matches(struct forest_test *ft)
{
	unsigned int i;

	for (i = 0; i < ft->nr_keys; i++)
		if (!key_matches(ft, &ft->keys[i]))
			return false;
	return walk_matches(ft);
}

static void expect_match(struct kunit *test, struct forest_test *ft)
{
	KUNIT_EXPECT_TRUE_MSG(test, forest_matches(ft), "seed %#llx", ft->seed);
}

static struct model_key *random_key(struct forest_test *ft)
{
	u32 draw = prandom_u32_state(&ft->rnd);
	u32 range = draw & 1 ? NR_HOT_KEYS : ft->nr_keys;

	/* Spread the hot ones over the table, both ends included. */
	if (draw & 1)
		return &ft->keys[(draw >> 1) % range * (ft->nr_keys - 1) / (range - 1)];
	return &ft->keys[(draw >> 1) % range];
}

/* Inserts or removes one node; returns whether find agrees before and after. */
static bool random_step(struct forest_test *ft)
{
	struct model_node *mn = &ft->nodes[random_below(&ft->rnd, NR_NODES)];
	struct model_key *mk = mn->key ?: random_key(ft);

	if (!finds_first(ft, mk))
		return false;
	if (mn->key)
		unlink_node(ft, mn);
	else if (prandom_u32_state(&ft->rnd) % 2)
		link_node(ft, mn, mk);
	else
		link_node_first(ft, mn, mk);
	return finds_first(ft, mk) && (mn->key || RB_EMPTY_NODE(&mn->node.rb));
}

static void trees_are_in_proportion_to_memory(struct kunit *test)
{
	unsigned int shift = 24;

	/* 16 MiB to 32 TiB, or what there can be. */
	for (; shift < 46 && shift - PAGE_SHIFT < BITS_PER_LONG; shift++) {
		unsigned long pages = 1UL << (shift - PAGE_SHIFT);
		u64 trees = 1ULL << ksm_forest_bits(pages);

		KUNIT_EXPECT_GE(test, trees * SZ_512K, 1ULL << shift);
		KUNIT_EXPECT_LE(test, trees * SZ_512K, 2ULL << shift);
	}
	KUNIT_EXPECT_GE(test, ksm_forest_bits(1), 1);
	KUNIT_EXPECT_LE(test, ksm_forest_bits(ULONG_MAX), 31);
}

static const unsigned int bits_params[] = { 0, 3, MAX_BITS };

static void describe_bits(const unsigned int *bits, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "%u bits", *bits);
}

KUNIT_ARRAY_PARAM(bits, bits_params, describe_bits);

static void million_random_insertions_and_removals_match_model(struct kunit *test)
{
	const unsigned int bits = *(const unsigned int *)test->param_value;
	struct forest_test *ft = plant(test, bits, 0x6b736d0000000001 + bits);
	unsigned int i;

	for (i = 1; i <= NR_OPS; i++) {
		if (!random_step(ft) || (i % NR_OPS_PHASE == 0 && !forest_matches(ft)))
			break;
		if (i % 1024 == 0)
			cond_resched();
	}
	KUNIT_ASSERT_GT_MSG(test, i, NR_OPS, "seed %#llx, operation %u", ft->seed, i);
	/* Random choice keeps about half of them linked. */
	KUNIT_EXPECT_GT(test, ft->nr_linked, NR_NODES / 4);

	for (i = 0; i < NR_NODES; i++)
		if (ft->nodes[i].key)
			unlink_node(ft, &ft->nodes[i]);
	KUNIT_EXPECT_EQ(test, ft->nr_linked, 0);
	expect_match(test, ft);
}

static void new_forest_is_empty(struct kunit *test)
{
	const unsigned int bits = *(const unsigned int *)test->param_value;
	struct forest_test *ft = plant(test, bits, 2);
	unsigned long i, nr_trees = 0;

	KUNIT_EXPECT_EQ(test, ft->forest.bits, bits);
	for (i = 0; i < 1UL << bits; i++) {
		struct ksm_root *root = &ft->forest.roots[i];

		if (!spin_trylock(&root->lock))
			continue;
		nr_trees += RB_EMPTY_ROOT(&root->tree);
		spin_unlock(&root->lock);
	}
	KUNIT_EXPECT_EQ(test, nr_trees, 1UL << bits);
	expect_match(test, ft);
	KUNIT_EXPECT_TRUE(test, finds_nothing(&ft->forest, 0));
	KUNIT_EXPECT_TRUE(test, finds_nothing(&ft->forest, U64_MAX));
}

static void emptied_forest_is_as_good_as_new(struct kunit *test)
{
	struct forest_test *ft = plant(test, 4, 3);
	unsigned int round, i;

	for (round = 0; round < 3; round++) {
		for (i = 0; i < ft->nr_keys; i++)
			link_node(ft, &ft->nodes[i], &ft->keys[i]);
		expect_match(test, ft);
		for (i = 0; i < ft->nr_keys; i++)
			unlink_node(ft, &ft->nodes[i]);
		expect_match(test, ft);
	}
}

static void key_that_is_not_there_is_not_found(struct kunit *test)
{
	static const u64 near[] = { 0, 1, 0x7fffffffffffffff, 0x8000000000000000, U64_MAX };
	struct forest_test *ft = plant(test, 0, 4);
	struct ksm_node node = { .key = 0x5555555555555555 };
	unsigned int i, nr_wrong = 0;

	scoped_guard(spinlock, &ft->forest.roots[0].lock)
		ksm_root_insert(&ft->forest.roots[0], &node);
	for (i = 0; i < ARRAY_SIZE(near); i++)
		nr_wrong += !finds_nothing(&ft->forest, near[i]);
	/* All keys that differ in one bit: no part of the key is left out. */
	for (i = 0; i < 64; i++)
		nr_wrong += !finds_nothing(&ft->forest, node.key ^ BIT_ULL(i));
	KUNIT_EXPECT_EQ(test, nr_wrong, 0);
	KUNIT_EXPECT_FALSE(test, finds_nothing(&ft->forest, node.key));
}

static void equal_keys_stand_in_order_of_insertion(struct kunit *test)
{
	struct forest_test *ft = plant(test, 2, 5);
	unsigned int i;

	/* First, last and one in between have all nodes; each has neighbours. */
	for (i = 0; i < ft->nr_keys; i++)
		link_node(ft, &ft->nodes[i], &ft->keys[i]);
	for (; i < NR_NODES; i++)
		link_node(ft, &ft->nodes[i], &ft->keys[i % 3 * (ft->nr_keys - 1) / 2]);
	expect_match(test, ft);
}

static void first_middle_or_last_of_equal_keys_can_be_erased(struct kunit *test)
{
	static const unsigned int order[] = { 0, 8, 4, 1, 7, 5, 3, 2, 6 };
	struct forest_test *ft = plant(test, 1, 6);
	struct model_key *mk = &ft->keys[ft->nr_keys / 2];
	unsigned int i;

	link_node(ft, &ft->nodes[100], mk - 1);
	link_node(ft, &ft->nodes[101], mk + 1);
	for (i = 0; i < ARRAY_SIZE(order); i++)
		link_node(ft, &ft->nodes[i], mk);
	for (i = 0; i < ARRAY_SIZE(order); i++) {
		unlink_node(ft, &ft->nodes[order[i]]);
		expect_match(test, ft);
	}
	KUNIT_EXPECT_TRUE(test, finds_nothing(&ft->forest, mk->key));
	KUNIT_EXPECT_EQ(test, ft->nr_linked, 2);
}

static void reinserted_node_goes_behind_its_equals(struct kunit *test)
{
	struct forest_test *ft = plant(test, 0, 7);
	struct model_key *mk = &ft->keys[1];
	unsigned int i;

	for (i = 0; i < 5; i++)
		link_node(ft, &ft->nodes[i], mk);
	for (i = 0; i < 5; i++) {
		unlink_node(ft, &ft->nodes[i]);
		KUNIT_EXPECT_TRUE(test, RB_EMPTY_NODE(&ft->nodes[i].node.rb));
		link_node(ft, &ft->nodes[i], mk);
		expect_match(test, ft);
	}
}

static void node_inserted_first_stands_before_its_equals(struct kunit *test)
{
	struct forest_test *ft = plant(test, 1, 8);
	struct model_key *mk = &ft->keys[ft->nr_keys / 2];
	unsigned int i;

	link_node_first(ft, &ft->nodes[100], mk - 1);
	link_node_first(ft, &ft->nodes[101], mk + 1);
	for (i = 0; i < 9; i++) {
		if (i % 3)
			link_node_first(ft, &ft->nodes[i], mk);
		else
			link_node(ft, &ft->nodes[i], mk);
		expect_match(test, ft);
	}
}

static void smallest_and_largest_key_keep_to_the_outer_trees(struct kunit *test)
{
	const unsigned int bits = *(const unsigned int *)test->param_value;
	struct forest_test *ft = plant(test, bits, 8);
	struct model_key *low = &ft->keys[0], *high = &ft->keys[ft->nr_keys - 1];

	KUNIT_ASSERT_EQ(test, low->key, 0);
	KUNIT_ASSERT_EQ(test, high->key, U64_MAX);
	link_node(ft, &ft->nodes[0], low);
	link_node(ft, &ft->nodes[1], high);
	link_node(ft, &ft->nodes[2], low);
	link_node(ft, &ft->nodes[3], high);
	expect_match(test, ft);
	KUNIT_EXPECT_PTR_EQ(test, ksm_forest_root(&ft->forest, 0), &ft->forest.roots[0]);
	KUNIT_EXPECT_PTR_EQ(test, ksm_forest_root(&ft->forest, U64_MAX),
			    &ft->forest.roots[(1UL << bits) - 1]);
}

static void top_bits_of_the_key_choose_the_tree(struct kunit *test)
{
	struct rnd_state rnd;
	unsigned int bits, i;

	prandom_seed_state(&rnd, 9);
	for (bits = 0; bits <= 31; bits++) {
		/* Only the place of a root is asked for, there is none. */
		struct ksm_forest forest = { .bits = bits };
		unsigned int nr_wrong = 0;

		for (i = 0; i < 1000; i++) {
			u64 key = random_u64(&rnd);
			u64 want = bits ? key >> (64 - bits) : 0;
			uintptr_t at = (uintptr_t)ksm_forest_root(&forest, key);

			nr_wrong += at != (uintptr_t)(want * sizeof(struct ksm_root));
		}
		KUNIT_EXPECT_EQ_MSG(test, nr_wrong, 0, "bits %u", bits);
	}
}

static void spread_keys_use_every_tree_alike(struct kunit *test)
{
	const unsigned int bits = 8, mean = NR_NODES >> bits;
	struct forest_test *ft = plant(test, bits, 10);
	unsigned int i, least = NR_NODES, most = 0;
	unsigned int nr[1 << 8] = {};

	for (i = 0; i < NR_NODES; i++) {
		struct ksm_root *root = ksm_forest_root(&ft->forest, random_u64(&ft->rnd));

		nr[root - ft->forest.roots]++;
	}
	for (i = 0; i < 1U << bits; i++) {
		least = min(least, nr[i]);
		most = max(most, nr[i]);
	}
	/* Mean 16, standard deviation 4; the draw is always the same. */
	KUNIT_EXPECT_GT(test, least, mean / 8);
	KUNIT_EXPECT_LT(test, most, mean * 3);
}

static struct kunit_case forest_cases[] = {
	KUNIT_CASE(trees_are_in_proportion_to_memory),
	KUNIT_CASE(top_bits_of_the_key_choose_the_tree),
	KUNIT_CASE_PARAM(new_forest_is_empty, bits_gen_params),
	KUNIT_CASE(emptied_forest_is_as_good_as_new),
	KUNIT_CASE(key_that_is_not_there_is_not_found),
	KUNIT_CASE(equal_keys_stand_in_order_of_insertion),
	KUNIT_CASE(first_middle_or_last_of_equal_keys_can_be_erased),
	KUNIT_CASE(reinserted_node_goes_behind_its_equals),
	KUNIT_CASE(node_inserted_first_stands_before_its_equals),
	KUNIT_CASE_PARAM(smallest_and_largest_key_keep_to_the_outer_trees, bits_gen_params),
	KUNIT_CASE(spread_keys_use_every_tree_alike),
	KUNIT_CASE_PARAM(million_random_insertions_and_removals_match_model, bits_gen_params),
	{}
};

static struct kunit_suite forest_suite = {
	.name = "ksm_forest",
	.test_cases = forest_cases,
};

kunit_test_suite(forest_suite);
