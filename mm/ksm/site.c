// SPDX-License-Identifier: GPL-2.0-only
/*
 * Sites: the places known to map merged folios.
 *
 * Every mapping of a merged folio lies, at a site's index, in the tree of that
 * site's anon_vma: either the site is the mapping, or the mapping was forked
 * from it. A site that goes away while relatives of its VMA exist stays as an
 * heir until none of them maps the folio any more, so that reverse-mapping
 * walks miss nothing.
 */
#include <linux/rmap.h>
#include <linux/slab.h>
#include <trace/events/ksm.h>

#include "check.h"

static struct kmem_cache *ksm_site_cache __ro_after_init;

static struct {
	spinlock_t lock;		/* guards the others and ksm_stable.heirs */
	unsigned int nr;		/* nodes on the list */
	struct list_head list;		/* nodes that have heirs */
} heirs = {
	.lock = __SPIN_LOCK_UNLOCKED(heirs.lock),
	.list = LIST_HEAD_INIT(heirs.list),
};

/**
 * ksm_site_init - make the cache of sites
 */
void __init ksm_site_init(void)
{
	ksm_site_cache = kmem_cache_create("ksm_site", sizeof(struct ksm_site), 0, SLAB_PANIC,
					   NULL);
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

/**
 * ksm_site_attach - add a site to a node
 * @stable: the node
 * @site: not attached
 *
 * Context: the node's folio locked.
 */
void ksm_site_attach(struct ksm_stable *stable, struct ksm_site *site)
{
	struct ksm_root *root = ksm_stable_root(stable);

	site->stable = stable;
	guard(spinlock)(&root->lock);
	hlist_add_head(&site->link, &stable->sites);
	if (!stable->nr_sites++)
		atomic_long_inc(&ksm_stat.shared);
	ksm_stable_settle(root, stable);
}

/* Takes a site off its node, and the node with the last one. */
static void detach(struct ksm_site *site, struct folio *folio)
{
	struct ksm_stable *stable = site->stable;
	struct ksm_root *root = ksm_stable_root(stable);
	bool felled;

	scoped_guard(spinlock, &root->lock) {
		hlist_del(&site->link);
		if (site->heir)
			stable->nr_heirs--;
		else if (!--stable->nr_sites)
			atomic_long_dec(&ksm_stat.shared);
		felled = ksm_stable_settle(root, stable);
	}
	if (felled)
		ksm_stable_drop(stable, folio);
}

/**
 * ksm_site_drop - take a site off its node, and the node with the last one
 * @site: attached, and freed by this
 * @folio: the node's, locked, or NULL when it is known to be gone
 *
 * Context: may sleep, where an anon_vma goes with the site.
 */
void ksm_site_drop(struct ksm_site *site, struct folio *folio)
{
	detach(site, folio);
	ksm_site_free(site);
}

/* A node has heirs. Returns whether it is the only one. */
static bool list_heirs(struct ksm_stable *stable)
{
	guard(spinlock)(&heirs.lock);
	if (!list_empty(&stable->heirs))
		return false;
	list_add_tail(&stable->heirs, &heirs.list);
	return !heirs.nr++;
}

/*
 * Between passes ksmd looks after heirs. If it has no passes it sleeps until there are
 * heirs: who lists the first node wakes it. Who stops the passes later lets it look.
 */
static void first_heir_wakes(void)
{
	smp_mb();	/* pairs with that of wait_event(), in scan_idle() */
	if (READ_ONCE(ksm_run) != KSM_RUN_MERGE || ksm_registry_empty())
		ksm_scan_wake();
}

/* Returns whether no node had heirs before. */
static bool bequeath(struct ksm_site *site)
{
	struct ksm_stable *stable = site->stable;
	struct ksm_root *root = ksm_stable_root(stable);
	bool first;

	guard(spinlock)(&root->lock);
	site->heir = true;
	stable->nr_heirs++;
	first = list_heirs(stable);
	smp_mb__before_atomic();	/* pairs with something_is_merged() */
	if (!--stable->nr_sites)
		atomic_long_dec(&ksm_stat.shared);
	return first;
}

/**
 * ksm_site_bequeath - a site becomes an heir
 * @site: owned by no record
 *
 * Context: the node's folio locked.
 */
void ksm_site_bequeath(struct ksm_site *site)
{
	if (bequeath(site))
		first_heir_wakes();
}

/**
 * ksm_site_inherit - let an heir that leads to a place become its site
 * @stable: the node
 * @vma: the VMA
 * @addr: where in it the folio is mapped
 *
 * Children of a process that is gone do not need more sites than it had.
 *
 * Context: the node's folio locked; the mmap_lock held.
 * Return: the site, or NULL when there is no such heir.
 */
struct ksm_site *ksm_site_inherit(struct ksm_stable *stable, const struct vm_area_struct *vma,
				  unsigned long addr)
{
	struct ksm_root *root = ksm_stable_root(stable);
	struct ksm_site *site;

	if (!stable->nr_heirs)
		return NULL;
	hlist_for_each_entry(site, &stable->sites, link) {
		if (!site->heir || !ksm_site_reaches(site, vma, addr))
			continue;
		guard(spinlock)(&root->lock);
		site->heir = false;
		stable->nr_heirs--;
		if (!stable->nr_sites++)
			atomic_long_inc(&ksm_stat.shared);
		return site;
	}
	return NULL;
}

/* Another site at the same place leads to the same relatives. */
static bool site_has_double(const struct ksm_site *site)
{
	const struct ksm_site *other;

	hlist_for_each_entry(other, &site->stable->sites, link) {
		if (other != site && other->anon_vma == site->anon_vma &&
		    other->pgoff == site->pgoff)
			return true;
	}
	return false;
}

/*
 * Whether the tree of the site's anon_vma holds nothing but the VMA of the site's own place,
 * or not even that any more. As the mm does not fork it stays so.
 */
static bool tree_is_own(const struct ksm_leaving *leaving, struct ksm_site *site,
			unsigned long own)
{
	struct anon_vma_chain *avc = anon_rmap_tree_iter_first(site->anon_vma, 0, ULONG_MAX);

	if (!avc)
		return true;
	return avc->vma->vm_mm == leaving->mm && !anon_rmap_tree_iter_next(avc, 0, ULONG_MAX) &&
	       vma_anon_address(avc->vma, site->pgoff, 1) == own;
}

/*
 * Whether others than the mm may have forked from the site, or the mm has a place that
 * stems from it besides @own. Without the lock the answer is yes: an heir too
 * many costs a little memory until it is pruned.
 */
static bool site_has_relatives(struct ksm_leaving *leaving, struct ksm_site *site,
			       unsigned long own)
{
	unsigned long offset = own - (site->pgoff << PAGE_SHIFT);
	struct anon_vma *anon_vma = site->anon_vma;
	struct anon_vma_chain *avc;
	bool found = false;

	if (anon_vma == leaving->alone && offset == leaving->offset)
		return false;
	if (ksm_point_fails(KSM_POINT_LOCK_ANON_VMA) || !anon_vma_trylock_read(anon_vma))
		return true;
	if (tree_is_own(leaving, site, own)) {
		leaving->alone = anon_vma;
		leaving->offset = offset;
	} else {
		anon_rmap_tree_foreach(avc, anon_vma, site->pgoff, site->pgoff) {
			found = avc->vma->vm_mm != leaving->mm ||
				vma_anon_address(avc->vma, site->pgoff, 1) != own;
			if (found)
				break;
		}
	}
	anon_vma_unlock_read(anon_vma);
	return found;
}

/**
 * ksm_sites_left - free the sites that have left
 * @leaving: with room for them
 *
 * Context: sleeps.
 */
void ksm_sites_left(struct ksm_leaving *leaving)
{
	unsigned int i;

	for (i = 0; i < leaving->nr_gone; i++)
		put_anon_vma(leaving->gone[i]->anon_vma);
	if (i)
		ksm_cache_free_bulk(ksm_site_cache, i, (void **)leaving->gone);
	leaving->nr_gone = 0;
	cond_resched();
}

static void drop_leaving(struct ksm_leaving *leaving, struct ksm_site *site, struct folio *folio)
{
	detach(site, folio);
	if (!leaving->gone) {
		ksm_site_free(site);
		return;
	}
	leaving->gone[leaving->nr_gone++] = site;
	if (leaving->nr_gone == KSM_LEAVING)
		ksm_sites_left(leaving);
}

/**
 * ksm_site_leave - a site's own mapping is gone or about to go
 * @leaving: whose site, and what is known from those that left before
 * @site: owned by no record any more, unless this fails
 * @addr: where
 *
 * Frees the site, at once or by ksm_sites_left(), or makes it an heir; frees the node
 * with its last site.
 *
 * Context: the mm's records locked; sleeps if @leaving waits.
 * Return: false when the folio is locked and @leaving does not wait; nothing changed.
 */
bool ksm_site_leave(struct ksm_leaving *leaving, struct ksm_site *site, unsigned long addr)
{
	struct folio *folio = ksm_stable_lock_folio(site->stable, leaving->wait);

	if (IS_ERR(folio))
		return false;
	trace_ksm_remove_rmap_item(READ_ONCE(site->stable->pfn), (void *)site->pgoff,
				   (void *)leaving->mm);
	if (folio && folio_mapped(folio) && site_has_relatives(leaving, site, addr) &&
	    !site_has_double(site))
		ksm_site_bequeath(site);
	else
		drop_leaving(leaving, site, folio);
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

		cond_resched();
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
			ksm_site_drop(site, folio);
	}
	return kept;
}

/*
 * Without a folio there are no new heirs and nobody walks the sites, but other
 * sites may leave meanwhile. The node may go with its last heir: count first.
 */
static void prune_gone(struct ksm_stable *stable, unsigned int left)
{
	struct ksm_root *root = ksm_stable_root(stable);

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
		ksm_site_drop(heir, NULL);
	}
}

/* Takes a node off the list; it may go at once, or with its last site from now on. */
static bool unlist_node(struct ksm_stable *stable, unsigned int *nr_heirs)
{
	struct ksm_root *root = ksm_stable_root(stable);

	guard(spinlock)(&root->lock);
	*nr_heirs = stable->nr_heirs;
	scoped_guard(spinlock, &heirs.lock) {
		list_del_init(&stable->heirs);
		heirs.nr--;
	}
	return ksm_stable_settle(root, stable);
}

/* Returns whether the node still has heirs; if not, it may be gone. */
static bool prune_node(struct ksm_stable *stable, bool wait)
{
	struct folio *folio = ksm_stable_lock_folio(stable, wait);
	unsigned int nr_heirs, kept = 0;

	if (IS_ERR(folio))
		return true;
	if (unlist_node(stable, &nr_heirs))
		ksm_stable_drop(stable, folio);
	else if (nr_heirs && !folio)
		prune_gone(stable, nr_heirs);
	else if (nr_heirs)
		kept = prune_living(stable, folio);
	if (kept && list_heirs(stable))
		first_heir_wakes();
	if (folio) {
		folio_unlock(folio);
		folio_put(folio);
	}
	return kept;
}

/**
 * ksm_site_prune_heirs - free heirs that are not needed any more
 * @max: how many nodes to look at
 * @wait: whether to sleep for locks of their folios
 *
 * Only this frees nodes that are on the list, so that one found there stays
 * until it was pruned.
 *
 * Context: ksm_control held, so that one at a time does this; sleeps if @wait.
 * Return: how many of the nodes still have heirs.
 */
unsigned int ksm_site_prune_heirs(unsigned int max, bool wait)
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
		ksm_point_sleep(KSM_POINT_PRUNE);
		kept += prune_node(stable, wait);
		cond_resched();
	}
	return kept;
}

#ifdef CONFIG_KSM_DEBUG
/**
 * ksm_site_next_with_heirs - a node that has heirs, another one each time
 *
 * Context: ksm_control held, which keeps the node in being.
 * Return: the node, or NULL.
 */
struct ksm_stable *ksm_site_next_with_heirs(void)
{
	struct ksm_stable *stable;

	lockdep_assert_held(&ksm_control);
	guard(spinlock)(&heirs.lock);
	stable = list_first_entry_or_null(&heirs.list, struct ksm_stable, heirs);
	if (stable)
		list_move_tail(&stable->heirs, &heirs.list);
	return stable;
}
#endif

/**
 * ksm_site_nr_heirs - how many nodes have heirs
 *
 * Context: any; the answer may be old at once.
 * Return: their number.
 */
unsigned int ksm_site_nr_heirs(void)
{
	return READ_ONCE(heirs.nr);
}

/**
 * ksm_site_reaches - whether walks from a site find a VMA
 * @site: of a merged folio that is locked
 * @vma: the VMA
 * @addr: where in it the folio is or will be mapped
 *
 * Context: the fault locks of @vma held, so that its anon_vma_chain is still.
 * Return: true if they do.
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
