// SPDX-License-Identifier: GPL-2.0-only
/*
 * Stable nodes: one for each merged folio. Who maps the folio is told by site.c.
 *
 * A stable node identifies its folio by PFN and by the folio's mapping word
 * pointing back; it keeps no reference, so the folio may be reclaimed,
 * migrated or offlined. Whoever needs the folio takes a reference and checks
 * again that it is the node's.
 *
 * How many sites may share a folio is limited, and so is the length of a walk
 * over them. Equal pages beyond that get another folio: nodes with one key are
 * a chain. In their tree those with room stand before those that are full, so
 * that the first tells whether there is room at all.
 */
#include <linux/jiffies.h>
#include <linux/slab.h>
#include <trace/events/ksm.h>

#include "check.h"

/* Not a PFN: the node's folio is known to be gone. */
#define KSM_PFN_GONE	(~0UL)
/* Nodes of a chain looked over under one hold of its tree's lock. */
#define KSM_CHAIN_PRUNE_NODES	64

static struct ksm_forest stable_forest;
static struct kmem_cache *ksm_stable_cache __ro_after_init;

unsigned int ksm_max_page_sharing = 256;
unsigned int ksm_chains_prune_millisecs = 2000;

/**
 * ksm_stable_init - make the cache of stable nodes
 */
void __init ksm_stable_init(void)
{
	ksm_stable_cache = kmem_cache_create("ksm_stable", sizeof(struct ksm_stable), 0,
					     SLAB_PANIC, NULL);
}

/**
 * ksm_stable_prepare - there will be folios to merge into
 *
 * Context: sleeps.
 * Return: 0 or -ENOMEM.
 */
int ksm_stable_prepare(void)
{
	return ksm_forest_alloc(&stable_forest);
}

#ifdef CONFIG_KSM_DEBUG
/**
 * ksm_stable_forest - the forest of stable nodes
 *
 * Return: the forest.
 */
const struct ksm_forest *ksm_stable_forest(void)
{
	return &stable_forest;
}
#endif

static struct ksm_stable *to_stable(struct ksm_node *node)
{
	return container_of(node, struct ksm_stable, node);
}

/**
 * ksm_stable_root - the tree a stable node belongs to
 * @stable: the node; its key changes when its folio migrates
 *
 * Return: the root.
 */
struct ksm_root *ksm_stable_root(const struct ksm_stable *stable)
{
	return ksm_forest_root(&stable_forest, READ_ONCE(stable->node.key));
}

/**
 * ksm_stable_alloc - a stable node without a folio
 *
 * Context: does not sleep.
 * Return: it, or NULL.
 */
struct ksm_stable *ksm_stable_alloc(void)
{
	struct ksm_stable *stable = ksm_cache_alloc(ksm_stable_cache, KSM_GFP | __GFP_ZERO);

	if (stable) {
		INIT_LIST_HEAD(&stable->heirs);
		RB_CLEAR_NODE(&stable->node.rb);
	}
	return stable;
}

/**
 * ksm_stable_free - free a stable node that is not planted
 * @stable: it, or NULL
 */
void ksm_stable_free(struct ksm_stable *stable)
{
	if (stable)
		ksm_cache_free(ksm_stable_cache, stable);
}

static void *mapping_of(const struct ksm_stable *stable)
{
	return (void *)((unsigned long)stable | FOLIO_MAPPING_KSM);
}

/* The folio lock keeps rmap walks out while the mapping word changes. */
static void folio_set_stable(struct folio *folio, const struct ksm_stable *stable)
{
	VM_WARN_ON_ONCE_FOLIO(!folio_test_locked(folio), folio);
	WRITE_ONCE(folio->mapping, mapping_of(stable));
}

/**
 * ksm_folio_stable - the stable node of a merged folio
 * @folio: of which folio_test_ksm() holds
 *
 * Context: @folio locked, so that the node stays.
 * Return: the node, or NULL for a folio that has lost it.
 */
struct ksm_stable *ksm_folio_stable(const struct folio *folio)
{
	unsigned long mapping = (unsigned long)READ_ONCE(folio->mapping);

	return (struct ksm_stable *)(mapping & ~FOLIO_MAPPING_FLAGS);
}

/**
 * ksm_stable_owns - whether a folio is a node's
 * @stable: the node
 * @folio: the folio; without a reference on it the answer is a hint
 *
 * Return: true if it is.
 */
bool ksm_stable_owns(const struct ksm_stable *stable, const struct folio *folio)
{
	return READ_ONCE(folio->mapping) == mapping_of(stable);
}

/*
 * Locks the tree that a node stands in, or would. A migration may give it another key
 * until that is done.
 */
static struct ksm_root *lock_root(const struct ksm_stable *stable)
{
	struct ksm_root *root = ksm_stable_root(stable), *now;

	spin_lock(&root->lock);
	while ((now = ksm_stable_root(stable)) != root) {
		spin_unlock(&root->lock);
		root = now;
		spin_lock(&root->lock);
	}
	return root;
}

/*
 * Whether a folio without references is freed, though it points to its node: one that
 * failed is not given to anybody else, and keeps its mapping word for good. Reclaim puts
 * no such folio into the swap cache, and others do not freeze what is not in there.
 */
static bool failed_and_freed(const struct folio *folio)
{
	if (!folio_test_hwpoison(folio))
		return false;
	smp_rmb();	/* a migration that froze it has ended if it is seen to be out */
	if (folio_test_swapcache(folio))
		return false;
	smp_rmb();	/* and its references are those that it has since */
	return !folio_ref_count(folio);
}

/**
 * ksm_stable_get_folio - take a reference on a node's folio
 * @stable: the node, kept in being by the caller
 *
 * Under the lock of the root, where a node's PFN and the mapping word of the folio that
 * it leaves change together, one folio at most can be the node's: that at its PFN.
 * It is, as long as it points back; none comes to point back but by a migration, which
 * changes the PFN. What is freed points back no more before its frame is used again. So
 * a folio that does not point back is gone for good. One that does and has no references
 * is being freed, or frozen for an instant: the caller may ask again.
 *
 * Context: @stable's root locked, so that memory does not go offline meanwhile.
 * Return: the folio; NULL when it is gone; ERR_PTR(-EAGAIN) when nobody can tell now.
 */
static struct folio *ksm_stable_get_folio(const struct ksm_stable *stable)
{
	struct folio *folio;

	if (stable->pfn == KSM_PFN_GONE)
		return NULL;
	folio = pfn_folio(stable->pfn);
	if (!ksm_stable_owns(stable, folio))
		return NULL;
	ksm_point_spin(KSM_POINT_STABLE_GET);
	if (!folio_try_get(folio))
		return failed_and_freed(folio) ? NULL : ERR_PTR(-EAGAIN);
	if (ksm_stable_owns(stable, folio))
		return folio;
	folio_put(folio);
	return NULL;
}

/**
 * ksm_stable_lock_folio - take a reference on a node's folio and lock it
 * @stable: the node, kept in being by the caller
 * @wait: whether to sleep for the lock
 *
 * Context: no lock of a tree held; sleeps if @wait.
 * Return: the folio; NULL when it is gone; ERR_PTR(-EAGAIN) when it is locked
 * by somebody else, or nobody can tell now, and @wait is not set.
 */
struct folio *ksm_stable_lock_folio(const struct ksm_stable *stable, bool wait)
{
	for (;;) {
		struct ksm_root *root = lock_root(stable);
		struct folio *folio = ksm_stable_get_folio(stable);

		spin_unlock(&root->lock);
		if (!folio)
			return NULL;
		if (IS_ERR(folio)) {
			if (!wait)
				return folio;
			/* Whoever frees or freezes it may have to run first. */
			schedule_timeout_uninterruptible(1);
			continue;
		}
		if ((!wait && ksm_point_fails(KSM_POINT_LOCK_FOLIO)) || !folio_trylock(folio)) {
			if (!wait) {
				folio_put(folio);
				return ERR_PTR(-EAGAIN);
			}
			folio_lock(folio);
		}
		if (ksm_stable_owns(stable, folio))
			return folio;
		/* Migrated meanwhile: the node knows where to. */
		folio_unlock(folio);
		folio_put(folio);
	}
}

/* How many nodes have a key: 0, 1, or 2 for more. */
static unsigned int count_equal(struct ksm_root *root, u64 key)
{
	struct ksm_node *node = ksm_root_find(root, key);

	if (!node)
		return 0;
	return ksm_node_next_equal(node) ? 2 : 1;
}

static void stable_link(struct ksm_root *root, struct ksm_stable *stable)
{
	unsigned int others = count_equal(root, stable->node.key);

	if (others == 1)
		atomic_long_inc(&ksm_stat.chains);
	if (others)
		atomic_long_add(others == 1 ? 2 : 1, &ksm_stat.dups);
	if (stable->full)
		ksm_root_insert(root, &stable->node);
	else
		ksm_root_insert_first(root, &stable->node);
}

static void stable_unlink(struct ksm_root *root, struct ksm_stable *stable)
{
	unsigned int others;

	ksm_root_erase(root, &stable->node);
	others = count_equal(root, stable->node.key);
	if (others == 1)
		atomic_long_dec(&ksm_stat.chains);
	if (others)
		atomic_long_sub(others == 1 ? 2 : 1, &ksm_stat.dups);
}

static bool stable_linked(const struct ksm_stable *stable)
{
	return !RB_EMPTY_NODE(&stable->node.rb);
}

/* What is gone never comes back; the node waits for its sites to leave. */
static void stable_bury(struct ksm_root *root, struct ksm_stable *stable)
{
	WRITE_ONCE(stable->pfn, KSM_PFN_GONE);
	stable_unlink(root, stable);
}

/* Full nodes of a chain are not met by lookups: look them all over at times. */
static void prune_chain(struct ksm_root *root, struct ksm_node *node)
{
	unsigned int left = KSM_CHAIN_PRUNE_NODES;
	struct ksm_node *next;

	if ((u32)jiffies - root->pruned < msecs_to_jiffies(READ_ONCE(ksm_chains_prune_millisecs)))
		return;
	root->pruned = jiffies;
	for (; node && left--; node = next) {
		struct ksm_stable *stable = to_stable(node);
		struct folio *folio = ksm_stable_get_folio(stable);

		next = ksm_node_next_equal(node);
		if (!folio)
			stable_bury(root, stable);
		else if (!IS_ERR(folio))
			folio_put(folio);
	}
}

/**
 * ksm_stable_prefetch - say that merged folios will be looked for soon
 * @key: of their contents
 */
void ksm_stable_prefetch(u64 key)
{
	ksm_forest_prefetch(&stable_forest, key);
}

/**
 * ksm_stable_find - merged folios with a key, and with room for another site
 * @key: of their contents
 * @found: room for the result, each folio with a reference
 *
 * Context: any; no lock of a tree held.
 * Return: how many were found; KSM_KEY_TWINS at most.
 */
unsigned int ksm_stable_find(u64 key, struct folio *found[KSM_KEY_TWINS])
{
	struct ksm_root *root = ksm_forest_root(&stable_forest, key);
	struct ksm_node *node, *next;
	unsigned int nr = 0, seen = 0;

	guard(spinlock)(&root->lock);
	node = ksm_root_find(root, key);
	if (node && ksm_node_next_equal(node)) {
		prune_chain(root, node);
		node = ksm_root_find(root, key);
	}
	for (; node && seen < KSM_KEY_TWINS; node = next, seen++) {
		struct ksm_stable *stable = to_stable(node);
		struct folio *folio;

		if (stable->full)
			break;
		next = ksm_node_next_equal(node);
		folio = ksm_stable_get_folio(stable);
		if (!folio)
			stable_bury(root, stable);
		else if (!IS_ERR(folio))
			found[nr++] = folio;
	}
	return nr;
}

/**
 * ksm_stable_plant - make a folio a merged one
 * @stable: new node
 * @folio: small, anonymous, write-protected in all its mappings; its mapping
 *	word, and so its anon_vma, is given up to the node
 * @key: checksum of its contents
 *
 * Context: @folio locked. The caller attaches a site before it unlocks.
 */
void ksm_stable_plant(struct ksm_stable *stable, struct folio *folio, u64 key)
{
	struct ksm_root *root;

	stable->node.key = key;
	stable->pfn = folio_pfn(folio);
	folio_set_stable(folio, stable);
	root = ksm_stable_root(stable);
	guard(spinlock)(&root->lock);
	stable_link(root, stable);
}

/**
 * ksm_stable_full - whether a node takes no more sites
 * @stable: the node
 *
 * Heirs count, as reverse-mapping walks visit them, too; doubles do not.
 *
 * Context: the node's folio locked, or its root.
 * Return: true if it has max_page_sharing of them.
 */
bool ksm_stable_full(const struct ksm_stable *stable)
{
	return stable->nr_distinct >= READ_ONCE(ksm_max_page_sharing);
}

/**
 * ksm_stable_settle - a node's sites have changed: it may go, or stand elsewhere
 * @root: the node's
 * @stable: the node
 *
 * Context: @root->lock held.
 * Return: whether the last site is gone. The node is out of the tree then, and
 * ksm_stable_drop() is the caller's to call.
 */
bool ksm_stable_settle(struct ksm_root *root, struct ksm_stable *stable)
{
	bool full = ksm_stable_full(stable);

	/* Who is on the list of those with heirs goes when that is looked through. */
	if (!stable->nr_sites && !stable->nr_heirs && list_empty(&stable->heirs)) {
		if (stable_linked(stable))
			stable_unlink(root, stable);
		return true;
	}
	if (stable->full == full)
		return false;
	stable->full = full;
	if (!stable_linked(stable))
		return false;
	ksm_root_erase(root, &stable->node);
	if (full)
		ksm_root_insert(root, &stable->node);
	else
		ksm_root_insert_first(root, &stable->node);
	return false;
}

/**
 * ksm_stable_drop - free a node that has no sites any more
 * @stable: the node, out of its tree: nothing leads to it but its folio
 * @folio: that folio, locked, or NULL when it is known to be gone
 */
void ksm_stable_drop(struct ksm_stable *stable, struct folio *folio)
{
	trace_ksm_remove_ksm_page(READ_ONCE(stable->pfn));
	if (folio)
		folio_set_stable(folio, NULL);
	ksm_stable_free(stable);
}

#ifdef CONFIG_MIGRATION
/* Without merging across nodes its key changes, so that its new neighbours find it. */
static void stable_follow(struct ksm_stable *stable, int old_nid, int new_nid)
{
	u64 key = ksm_key(ksm_key(stable->node.key, old_nid), new_nid);
	struct ksm_root *root = ksm_stable_root(stable);
	bool linked;

	if (key == stable->node.key)
		return;
	scoped_guard(spinlock, &root->lock) {
		linked = stable_linked(stable);
		if (linked)
			stable_unlink(root, stable);
		WRITE_ONCE(stable->node.key, key);	/* see lock_root() */
	}
	root = ksm_stable_root(stable);
	guard(spinlock)(&root->lock);
	if (linked)
		stable_link(root, stable);
}

/**
 * ksm_stable_move - a node's folio has moved
 * @stable: the node
 * @newfolio: where to; has the old one's mapping word already
 * @folio: where from
 *
 * Context: both folios locked.
 */
void ksm_stable_move(struct ksm_stable *stable, struct folio *newfolio, struct folio *folio)
{
	struct ksm_root *root;

	VM_WARN_ON_ONCE_FOLIO(stable->pfn != folio_pfn(folio), folio);
	stable_follow(stable, folio_nid(folio), folio_nid(newfolio));
	ksm_point_spin(KSM_POINT_MIGRATE);
	root = ksm_stable_root(stable);
	guard(spinlock)(&root->lock);
	WRITE_ONCE(stable->pfn, folio_pfn(newfolio));
	WRITE_ONCE(folio->mapping, (void *)FOLIO_MAPPING_KSM);
}
#endif

/**
 * ksm_stable_forget_pfns - the memory map of a range of PFNs goes away
 * @start_pfn: first
 * @nr_pages: how many
 *
 * Their folios are gone already: nodes that have not noticed must not look.
 *
 * Context: sleeps.
 */
void ksm_stable_forget_pfns(unsigned long start_pfn, unsigned long nr_pages)
{
	unsigned long i;

	for (i = 0; i < ksm_forest_trees(&stable_forest); i++) {
		struct ksm_root *root = &stable_forest.roots[i];
		struct rb_node *rb;

		scoped_guard(spinlock, &root->lock) {
			for (rb = rb_first(&root->tree); rb; rb = rb_next(rb)) {
				struct ksm_stable *stable =
					to_stable(rb_entry(rb, struct ksm_node, rb));

				if (stable->pfn - start_pfn < nr_pages)
					WRITE_ONCE(stable->pfn, KSM_PFN_GONE);
			}
		}
		cond_resched();
	}
}
