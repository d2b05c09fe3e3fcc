// SPDX-License-Identifier: GPL-2.0-only
/*
 * Merged folios: stable nodes and the sites known to map them.
 *
 * A stable node identifies its folio by PFN and by the folio's mapping word
 * pointing back; it keeps no reference, so the folio may be reclaimed,
 * migrated or offlined. Whoever needs the folio takes a reference and checks
 * again that it is the node's.
 *
 * Every mapping of a merged folio lies, at a site's index, in the tree of that
 * site's anon_vma: either the site is the mapping, or the mapping was forked
 * from it. A site that goes away while relatives of its VMA exist stays as an
 * heir until none of them maps the folio any more, so that reverse-mapping
 * walks miss nothing.
 */
#include <linux/rmap.h>
#include <linux/slab.h>

#include "ksm.h"

/* Not a PFN: the node's folio is known to be gone. */
#define KSM_PFN_GONE	(~0UL)

static struct ksm_forest stable_forest __ro_after_init;
static struct kmem_cache *ksm_stable_cache __ro_after_init;
static struct kmem_cache *ksm_site_cache __ro_after_init;

static struct {
	spinlock_t lock;		/* guards @list and ksm_stable.heirs */
	struct list_head list;		/* nodes that have heirs */
} heirs = {
	.lock = __SPIN_LOCK_UNLOCKED(heirs.lock),
	.list = LIST_HEAD_INIT(heirs.list),
};

/**
 * ksm_stable_init - plant the stable forest
 *
 * Return: 0 or -ENOMEM.
 */
int __init ksm_stable_init(void)
{
	ksm_forest_alloc(&stable_forest, "KSM stable forest");
	ksm_stable_cache = kmem_cache_create("ksm_stable", sizeof(struct ksm_stable), 0, 0, NULL);
	ksm_site_cache = kmem_cache_create("ksm_site", sizeof(struct ksm_site), 0, 0, NULL);
	return ksm_stable_cache && ksm_site_cache ? 0 : -ENOMEM;
}

static struct ksm_stable *to_stable(struct ksm_node *node)
{
	return container_of(node, struct ksm_stable, node);
}

static struct ksm_root *stable_root(const struct ksm_stable *stable)
{
	return ksm_forest_root(&stable_forest, stable->node.key);
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

	if (stable)
		INIT_LIST_HEAD(&stable->heirs);
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

/**
 * ksm_site_alloc - a site, not yet attached
 * @anon_vma: whose tree holds the place; gets a reference
 * @pgoff: index of the place there
 *
 * Context: does not sleep; the caller keeps @anon_vma in being.
 * Return: it, or NULL.
 */
struct ksm_site *ksm_site_alloc(struct anon_vma *anon_vma, pgoff_t pgoff)
{
	struct ksm_site *site = ksm_cache_alloc(ksm_site_cache, KSM_GFP | __GFP_ZERO);

	if (!site)
		return NULL;
	get_anon_vma(anon_vma);
	site->anon_vma = anon_vma;
	site->pgoff = pgoff;
	return site;
}

/**
 * ksm_site_free - free a site that is not attached
 * @site: it, or NULL
 *
 * Context: may sleep, where the anon_vma goes with it.
 */
void ksm_site_free(struct ksm_site *site)
{
	if (!site)
		return;
	put_anon_vma(site->anon_vma);
	ksm_cache_free(ksm_site_cache, site);
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
 */
bool ksm_stable_owns(const struct ksm_stable *stable, const struct folio *folio)
{
	return READ_ONCE(folio->mapping) == mapping_of(stable);
}

/**
 * ksm_stable_get_folio - take a reference on a node's folio
 * @stable: the node, kept in being by the caller
 *
 * A reference count of zero means that the folio is being freed, or frozen for
 * an instant: by reclaim or migration, in the swap cache only and with
 * interrupts off. Migration moves the PFN before it clears the old folio's
 * mapping word and swap cache flag; see folio_migrate_ksm().
 *
 * Context: any.
 * Return: the folio, or NULL when it is gone.
 */
struct folio *ksm_stable_get_folio(const struct ksm_stable *stable)
{
	unsigned long pfn;

	/* Keeps the memory map: ksm_stable_forget_pfns() waits. */
	guard(rcu)();
	for (pfn = READ_ONCE(stable->pfn); pfn != KSM_PFN_GONE; ) {
		struct folio *folio = pfn_folio(pfn);
		unsigned long now;

		while (ksm_stable_owns(stable, folio)) {
			if (folio_try_get(folio)) {
				if (ksm_stable_owns(stable, folio))
					return folio;
				folio_put(folio);
				break;
			}
			if (!folio_test_swapcache(folio))
				break;
			cpu_relax();
		}
		smp_rmb();	/* pairs with smp_wmb() in folio_migrate_ksm() */
		now = READ_ONCE(stable->pfn);
		if (now == pfn)
			return NULL;
		pfn = now;
	}
	return NULL;
}

/**
 * ksm_stable_lock_folio - take a reference on a node's folio and lock it
 * @stable: the node, kept in being by the caller
 * @wait: whether to sleep for the lock
 *
 * Context: sleeps if @wait.
 * Return: the folio; NULL when it is gone; ERR_PTR(-EAGAIN) when it is locked
 * by somebody else and @wait is not set.
 */
struct folio *ksm_stable_lock_folio(const struct ksm_stable *stable, bool wait)
{
	struct folio *folio;

	while ((folio = ksm_stable_get_folio(stable))) {
		if (wait) {
			folio_lock(folio);
		} else if (!folio_trylock(folio)) {
			folio_put(folio);
			return ERR_PTR(-EAGAIN);
		}
		if (ksm_stable_owns(stable, folio))
			return folio;
		/* Migrated meanwhile: the node knows where to. */
		folio_unlock(folio);
		folio_put(folio);
	}
	return NULL;
}

/**
 * ksm_stable_find - merged folios with a key
 * @key: checksum of their contents
 * @found: room for the result, each folio with a reference
 *
 * Context: any; no lock of a tree held.
 * Return: how many were found; KSM_KEY_TWINS at most.
 */
unsigned int ksm_stable_find(u64 key, struct folio *found[KSM_KEY_TWINS])
{
	struct ksm_root *root = ksm_forest_root(&stable_forest, key);
	struct ksm_node *node;
	unsigned int nr = 0, seen = 0;

	guard(spinlock)(&root->lock);
	for (node = ksm_root_find(root, key); node; node = ksm_node_next_equal(node)) {
		struct folio *folio = ksm_stable_get_folio(to_stable(node));

		if (folio)
			found[nr++] = folio;
		if (++seen >= KSM_KEY_TWINS)
			break;
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
	root = stable_root(stable);
	guard(spinlock)(&root->lock);
	ksm_root_insert(root, &stable->node);
}

/**
 * ksm_stable_attach - add a site to a node
 * @stable: the node
 * @site: not attached
 *
 * Context: the node's folio locked.
 */
void ksm_stable_attach(struct ksm_stable *stable, struct ksm_site *site)
{
	struct ksm_root *root = stable_root(stable);

	site->stable = stable;
	guard(spinlock)(&root->lock);
	hlist_add_head(&site->link, &stable->sites);
	if (!stable->nr_sites++)
		atomic_long_inc(&ksm_stat.shared);
}

/* Fells the node when its last site has gone. */
static bool stable_wither(struct ksm_root *root, struct ksm_stable *stable)
{
	if (stable->nr_sites || stable->nr_heirs)
		return false;
	ksm_root_erase(root, &stable->node);
	return true;
}

/* The node is out of all reach but by its folio's mapping word. */
static void stable_drop(struct ksm_stable *stable, struct folio *folio)
{
	if (folio)
		folio_set_stable(folio, NULL);
	ksm_stable_free(stable);
}

static void site_drop(struct ksm_site *site, struct folio *folio)
{
	struct ksm_stable *stable = site->stable;
	struct ksm_root *root = stable_root(stable);
	bool felled;

	scoped_guard(spinlock, &root->lock) {
		hlist_del(&site->link);
		if (site->heir)
			stable->nr_heirs--;
		else if (!--stable->nr_sites)
			atomic_long_dec(&ksm_stat.shared);
		felled = stable_wither(root, stable);
	}
	if (felled)
		stable_drop(stable, folio);
	ksm_site_free(site);
}

static void site_bequeath(struct ksm_site *site)
{
	struct ksm_stable *stable = site->stable;
	struct ksm_root *root = stable_root(stable);

	guard(spinlock)(&root->lock);
	site->heir = true;
	stable->nr_heirs++;
	if (!--stable->nr_sites)
		atomic_long_dec(&ksm_stat.shared);
	guard(spinlock)(&heirs.lock);
	if (list_empty(&stable->heirs))
		list_add_tail(&stable->heirs, &heirs.list);
}

/**
 * ksm_stable_detach - take back a site that maps nothing yet
 * @site: attached, and freed by this
 * @folio: the node's
 *
 * Context: @folio locked.
 */
void ksm_stable_detach(struct ksm_site *site, struct folio *folio)
{
	site_drop(site, folio);
}

/*
 * Whether others than @mm may have forked from the site, or @mm has a second
 * place that stems from it. Without the lock the answer is yes: an heir too
 * many costs a little memory until it is pruned.
 */
static bool site_has_relatives(const struct ksm_site *site, const struct mm_struct *mm)
{
	struct anon_vma *anon_vma = site->anon_vma;
	struct anon_vma_chain *avc;
	unsigned int places = 0;
	bool found = false;

	if (!anon_vma_trylock_read(anon_vma))
		return true;
	anon_rmap_tree_foreach(avc, anon_vma, site->pgoff, site->pgoff) {
		found = avc->vma->vm_mm != mm || ++places > 1;
		if (found)
			break;
	}
	anon_vma_unlock_read(anon_vma);
	return found;
}

/**
 * ksm_stable_leave - a site's own mapping is gone or about to go
 * @site: owned by no record any more, unless this fails
 * @mm: whose it was
 * @wait: whether to sleep for the folio's lock
 *
 * Frees the site or makes it an heir; frees the node with its last site.
 *
 * Context: the mm's records locked; sleeps if @wait.
 * Return: false when the folio is locked and @wait is not set; nothing changed.
 */
bool ksm_stable_leave(struct ksm_site *site, const struct mm_struct *mm, bool wait)
{
	struct folio *folio = ksm_stable_lock_folio(site->stable, wait);

	if (IS_ERR(folio))
		return false;
	if (folio && folio_mapped(folio) && site_has_relatives(site, mm))
		site_bequeath(site);
	else
		site_drop(site, folio);
	if (folio) {
		folio_unlock(folio);
		folio_put(folio);
	}
	return true;
}

static bool vma_maps(struct vm_area_struct *vma, unsigned long addr, struct folio *folio)
{
	DEFINE_FOLIO_VMA_WALK(pvmw, folio, vma, addr, PVMW_SYNC);

	if (!page_vma_mapped_walk(&pvmw))
		return false;
	page_vma_mapped_walk_done(&pvmw);
	return true;
}

/* With the folio locked no migration is under way: who maps it, maps it now. */
static bool heir_needed(const struct ksm_site *site, struct folio *folio)
{
	struct anon_vma *anon_vma = site->anon_vma;
	struct anon_vma_chain *avc;
	bool found = false;

	anon_vma_lock_read(anon_vma);
	anon_rmap_tree_foreach(avc, anon_vma, site->pgoff, site->pgoff) {
		unsigned long addr = vma_anon_address(avc->vma, site->pgoff, 1);

		found = addr != -EFAULT && vma_maps(avc->vma, addr, folio);
		if (found)
			break;
	}
	anon_vma_unlock_read(anon_vma);
	return found;
}

/* The folio's lock keeps the sites still. The node is gone if none are left. */
static unsigned int prune_living(struct ksm_stable *stable, struct folio *folio)
{
	struct hlist_node *next;
	struct ksm_site *site;
	unsigned int kept = 0;

	hlist_for_each_entry_safe(site, next, &stable->sites, link) {
		if (!site->heir)
			continue;
		if (heir_needed(site, folio))
			kept++;
		else
			site_drop(site, folio);
	}
	return kept;
}

/*
 * Without a folio there are no new heirs and nobody walks the sites, but other
 * sites may leave meanwhile. The node may go with its last heir: count first.
 */
static void prune_gone(struct ksm_stable *stable)
{
	struct ksm_root *root = stable_root(stable);
	unsigned int left = READ_ONCE(stable->nr_heirs);

	while (left--) {
		struct ksm_site *site, *heir = NULL;

		scoped_guard(spinlock, &root->lock) {
			hlist_for_each_entry(site, &stable->sites, link) {
				if (site->heir) {
					heir = site;
					break;
				}
			}
		}
		if (WARN_ON_ONCE(!heir))
			break;
		site_drop(heir, NULL);
	}
}

/* Returns whether the node still has heirs; if not, it may be gone. */
static bool prune_node(struct ksm_stable *stable)
{
	struct folio *folio = ksm_stable_lock_folio(stable, true);
	unsigned int kept;

	/* Off the list before it may go; on again only by one with this lock. */
	scoped_guard(spinlock, &heirs.lock)
		list_del_init(&stable->heirs);
	if (!folio) {
		prune_gone(stable);
		return false;
	}
	kept = prune_living(stable, folio);
	if (kept) {
		guard(spinlock)(&heirs.lock);
		list_add_tail(&stable->heirs, &heirs.list);
	}
	folio_unlock(folio);
	folio_put(folio);
	return kept;
}

/**
 * ksm_stable_prune_heirs - free heirs that are not needed any more
 * @max: how many nodes to look at
 *
 * Only this frees nodes that have heirs, so that a node found on the list is
 * there until it was pruned.
 *
 * Context: ksm_control held, so that one at a time does this; sleeps.
 * Return: how many of the nodes still have heirs.
 */
unsigned int ksm_stable_prune_heirs(unsigned int max)
{
	unsigned int kept = 0;

	lockdep_assert_held(&ksm_control);
	while (max--) {
		struct ksm_stable *stable;

		scoped_guard(spinlock, &heirs.lock) {
			stable = list_first_entry_or_null(&heirs.list, struct ksm_stable, heirs);
			if (stable)
				list_move_tail(&stable->heirs, &heirs.list);
		}
		if (!stable)
			break;
		kept += prune_node(stable);
		cond_resched();
	}
	return kept;
}

/**
 * ksm_stable_has_heirs - whether any node has heirs
 *
 * Context: any; the answer may be old at once.
 */
bool ksm_stable_has_heirs(void)
{
	return !list_empty_careful(&heirs.list);
}

/**
 * ksm_stable_nr_heirs - how many nodes have heirs
 *
 * Context: any.
 */
unsigned int ksm_stable_nr_heirs(void)
{
	guard(spinlock)(&heirs.lock);
	return list_count_nodes(&heirs.list);
}

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

	for (i = 0; i < 1UL << stable_forest.bits; i++) {
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
	synchronize_rcu();
}

/**
 * ksm_site_reaches - whether walks from a site find a VMA
 * @site: of a merged folio that is locked
 * @vma: the VMA
 * @addr: where in it the folio is or will be mapped
 *
 * Context: the fault locks of @vma held, so that its anon_vma_chain is still.
 */
bool ksm_site_reaches(const struct ksm_site *site, const struct vm_area_struct *vma,
		      unsigned long addr)
{
	const struct anon_vma_chain *avc;

	if (site->pgoff != linear_anon_page_index(vma, addr))
		return false;
	list_for_each_entry(avc, &vma->anon_vma_chain, same_vma) {
		if (avc->anon_vma == site->anon_vma)
			return true;
	}
	return false;
}
