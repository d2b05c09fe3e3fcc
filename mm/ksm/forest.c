// SPDX-License-Identifier: GPL-2.0-only
/*
 * A forest of red-black trees ordered by a 64-bit key.
 *
 * The top bits of the key choose the tree, so that depth stays flat as memory
 * grows and work on different trees needs no common lock. Keys are checksums
 * and so spread evenly. A key does not change while its node is linked: no
 * write by an application can put a tree out of order.
 */
#include <linux/memblock.h>
#include <linux/prefetch.h>

#include "ksm.h"

/*
 * One tree for this many bytes of memory, as a power of two: 128 KiB. So trees
 * are low, and a forest takes an eighth of a per mille of memory.
 */
#define KSM_FOREST_SCALE	17

/**
 * ksm_forest_alloc - allocate a forest in proportion to the memory size
 * @forest: to set up
 * @name: for the boot log
 *
 * Context: boot; panics without memory, as all large system hashes do.
 */
void __init ksm_forest_alloc(struct ksm_forest *forest, const char *name)
{
	struct ksm_root *roots;
	unsigned int bits;

	roots = alloc_large_system_hash(name, sizeof(*roots), 0, KSM_FOREST_SCALE, 0,
					&bits, NULL, 16, 1UL << 20);
	ksm_forest_plant(forest, roots, bits);
}

/**
 * ksm_forest_plant - make a forest of empty trees
 * @forest: to set up
 * @roots: 1 << @bits roots, owned by the caller
 * @bits: log2 of the number of trees, 0 to 31
 */
void ksm_forest_plant(struct ksm_forest *forest, struct ksm_root *roots, unsigned int bits)
{
	unsigned long i;

	for (i = 0; i < 1UL << bits; i++) {
		spin_lock_init(&roots[i].lock);
		roots[i].tree = RB_ROOT;
		roots[i].pruned = 0;
	}
	forest->roots = roots;
	forest->bits = bits;
}

/**
 * ksm_forest_root - the tree a key belongs to
 * @forest: where
 * @key: of which node
 *
 * Context: any; takes no lock.
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

static bool ksm_node_less(struct rb_node *a, const struct rb_node *b)
{
	return rb_entry(a, struct ksm_node, rb)->key < rb_entry(b, struct ksm_node, rb)->key;
}

static int ksm_node_cmp(const void *key, const struct rb_node *rb)
{
	u64 want = *(const u64 *)key;
	u64 have = rb_entry(rb, struct ksm_node, rb)->key;

	return want < have ? -1 : want > have;
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
	lockdep_assert_held(&root->lock);
	rb_add(&node->rb, &root->tree, ksm_node_less);
}

static bool ksm_node_not_greater(struct rb_node *a, const struct rb_node *b)
{
	return !ksm_node_less((struct rb_node *)b, a);
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
	lockdep_assert_held(&root->lock);
	rb_add(&node->rb, &root->tree, ksm_node_not_greater);
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
 * Return: the node with @key that was inserted first, or NULL.
 */
struct ksm_node *ksm_root_find(struct ksm_root *root, u64 key)
{
	struct rb_node *rb;

	lockdep_assert_held(&root->lock);
	rb = rb_find_first(&key, &root->tree, ksm_node_cmp);
	return rb ? rb_entry(rb, struct ksm_node, rb) : NULL;
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
	struct rb_node *rb = rb_next_match(&node->key, &node->rb, ksm_node_cmp);

	return rb ? rb_entry(rb, struct ksm_node, rb) : NULL;
}
