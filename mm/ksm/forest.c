// SPDX-License-Identifier: GPL-2.0-only
/*
 * A forest of red-black trees ordered by a 64-bit key.
 *
 * The top bits of the key choose the tree, so that depth stays flat as memory
 * grows and work on different trees needs no common lock. Keys are checksums
 * and so spread evenly. A key does not change while its node is linked: no
 * write by an application can put a tree out of order.
 */
#include <linux/log2.h>
#include <linux/minmax.h>
#include <linux/mm.h>
#include <linux/prefetch.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "ksm.h"
#include "work.h"

/* One tree for this many bytes of memory, as a power of two: 512 KiB. */
#define KSM_FOREST_SHIFT	19
#define KSM_FOREST_MIN_BITS	4
/* Enough for 64 TiB. Without lock debugging that is 2 GiB of roots. */
#define KSM_FOREST_MAX_BITS	27
/* Trees planted between two chances for others to run. */
#define KSM_FOREST_PLANT	4096

static DEFINE_MUTEX(forest_alloc_lock);

/**
 * ksm_forest_bits - how many trees a forest should have
 * @pages: of memory
 *
 * Return: log2 of their number.
 */
unsigned int ksm_forest_bits(unsigned long pages)
{
	unsigned long trees = pages >> (KSM_FOREST_SHIFT - PAGE_SHIFT);

	return clamp_t(unsigned int, order_base_2(trees + 1), KSM_FOREST_MIN_BITS,
		       KSM_FOREST_MAX_BITS);
}

/* kvmalloc() gives no more than INT_MAX bytes. */
static struct ksm_root *alloc_roots(unsigned int bits)
{
	unsigned long bytes = sizeof(struct ksm_root) << bits;

	return bytes > INT_MAX ? vmalloc_huge(bytes, GFP_KERNEL) : kvmalloc(bytes, GFP_KERNEL);
}

/**
 * ksm_forest_alloc - allocate a forest in proportion to the memory size
 * @forest: to set up, if that was not done before; it stays for good
 *
 * Who never uses KSM pays nothing for it. As it stays when nobody is registered any
 * more it does not count in ksm_stat.bytes, which is zero then. The first who registers
 * waits for it.
 *
 * Context: sleeps; the mmap_lock may be held.
 * Return: 0 or -ENOMEM.
 */
int ksm_forest_alloc(struct ksm_forest *forest)
{
	unsigned int bits = ksm_forest_bits(totalram_pages());
	struct ksm_root *roots;

	if (ksm_forest_trees(forest))
		return 0;
	guard(mutex)(&forest_alloc_lock);
	if (ksm_forest_trees(forest))
		return 0;
	roots = alloc_roots(bits);
	if (!roots)
		return -ENOMEM;
	ksm_forest_plant(forest, roots, bits);
	return 0;
}

/**
 * ksm_forest_plant - make a forest of empty trees
 * @forest: to set up
 * @roots: 1 << @bits roots, owned by the caller
 * @bits: log2 of the number of trees, 0 to 31
 *
 * Context: sleeps.
 */
void ksm_forest_plant(struct ksm_forest *forest, struct ksm_root *roots, unsigned int bits)
{
	unsigned long i;

	for (i = 0; i < 1UL << bits; i++) {
		spin_lock_init(&roots[i].lock);
		roots[i].tree = RB_ROOT;
		roots[i].pruned = 0;
		if (i % KSM_FOREST_PLANT == 0)
			cond_resched();
	}
	forest->bits = bits;
	/* Pairs with ksm_forest_trees(). */
	smp_store_release(&forest->roots, roots);
}

/**
 * ksm_forest_trees - how many trees there are
 * @forest: where
 *
 * Context: any.
 * Return: their number, 0 before the forest is planted; each may be looked at.
 */
unsigned long ksm_forest_trees(const struct ksm_forest *forest)
{
	/* Pairs with ksm_forest_plant(). */
	return smp_load_acquire(&forest->roots) ? 1UL << forest->bits : 0;
}

/**
 * ksm_forest_root - the tree a key belongs to
 * @forest: where
 * @key: of which node
 *
 * Context: any; takes no lock.
 * Return: its root, whether or not there is a node with @key.
 */
struct ksm_root *ksm_forest_root(const struct ksm_forest *forest, u64 key)
{
	/* In two steps: a shift by 64 is not defined. */
	return &forest->roots[(key >> 1) >> (63 - forest->bits)];
}

/**
 * ksm_forest_prefetch - say that a key will be looked up soon
 * @forest: where
 * @key: the key
 */
void ksm_forest_prefetch(const struct ksm_forest *forest, u64 key)
{
	prefetch(ksm_forest_root(forest, key));
}

static struct ksm_node *node_of(struct rb_node *rb)
{
	return rb_entry(rb, struct ksm_node, rb);
}

/* @first: before those with an equal key, else behind them. */
static void root_link(struct ksm_root *root, struct ksm_node *node, bool first)
{
	struct rb_node **link = &root->tree.rb_node, *parent = NULL;
	unsigned int steps = 0;

	lockdep_assert_held(&root->lock);
	for (; *link; steps++) {
		u64 key = node_of(*link)->key;

		parent = *link;
		if (node->key < key || (first && node->key == key))
			link = &parent->rb_left;
		else
			link = &parent->rb_right;
	}
	rb_link_node(&node->rb, parent, link);
	rb_insert_color(&node->rb, &root->tree);
	ksm_work_add(KSM_WORK_STEPS, steps);
}

/**
 * ksm_root_insert - link a node; equal keys are legal
 * @root: the tree of @node's key
 * @node: not linked, with its key set
 *
 * Context: @root->lock held.
 */
void ksm_root_insert(struct ksm_root *root, struct ksm_node *node)
{
	root_link(root, node, false);
}

/**
 * ksm_root_insert_first - link a node before those with an equal key
 * @root: the tree of @node's key
 * @node: not linked, with its key set
 *
 * Context: @root->lock held.
 */
void ksm_root_insert_first(struct ksm_root *root, struct ksm_node *node)
{
	root_link(root, node, true);
}

/**
 * ksm_root_erase - unlink a node
 * @root: the tree of @node's key
 * @node: linked there
 *
 * Context: @root->lock held.
 */
void ksm_root_erase(struct ksm_root *root, struct ksm_node *node)
{
	lockdep_assert_held(&root->lock);
	rb_erase(&node->rb, &root->tree);
	RB_CLEAR_NODE(&node->rb);
}

/**
 * ksm_root_find - the first node with a key
 * @root: the tree of @key
 * @key: which
 *
 * Context: @root->lock held.
 * Return: the first node with @key in the order of the tree, or NULL.
 */
struct ksm_node *ksm_root_find(struct ksm_root *root, u64 key)
{
	struct rb_node *rb = root->tree.rb_node;
	struct ksm_node *found = NULL;
	unsigned int steps = 0;

	lockdep_assert_held(&root->lock);
	for (; rb; steps++) {
		struct ksm_node *node = node_of(rb);

		/* An earlier one with this key can only stand to the left. */
		if (node->key == key)
			found = node;
		rb = node->key < key ? rb->rb_right : rb->rb_left;
	}
	ksm_work_add(KSM_WORK_STEPS, steps);
	return found;
}

/**
 * ksm_node_next_equal - the next node with the same key
 * @node: linked
 *
 * Context: the lock of @node's root held.
 * Return: that node, or NULL when there is none.
 */
struct ksm_node *ksm_node_next_equal(struct ksm_node *node)
{
	struct rb_node *rb = rb_next(&node->rb);

	return rb && node_of(rb)->key == node->key ? node_of(rb) : NULL;
}
