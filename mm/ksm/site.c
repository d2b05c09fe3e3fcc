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

/**
 * ksm_site_drop - take a site off its node, and the node with the last one
 * @site: attached, and freed by this
 * @folio: the node's, locked, or NULL when it is known to be gone
 *
 * Context: may sleep, where an anon_vma goes with the site.
 */
void ksm_site_drop(struct ksm_site *site, struct folio *folio)
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
	ksm_site_free(site);
}

/**
 * ksm_site_bequeath - a site becomes an heir
 * @site: owned by no record
 *
 * Context: the node's folio locked.
 */
void ksm_site_bequeath(struct ksm_site *site)
{
	struct ksm_stable *stable = site->stable;
	struct ksm_root *root = ksm_stable_root(stable);

	guard(spinlock)(&root->lock);
	site->heir = true;
	stable->nr_heirs++;
	scoped_guard(spinlock, &heirs.lock) {
		if (list_empty(&stable->heirs)) {
			list_add_tail(&stable->heirs, &heirs.list);
			heirs.nr++;
		}
	}
	smp_mb__before_atomic();	/* pairs with something_is_merged() */
	if (!--stable->nr_sites)
		atomic_long_dec(&ksm_stat.shared);
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
 * Whether others than @mm may have forked from the site, or @mm has a place that
 * stems from it besides @own. Without the lock the answer is yes: an heir too
 * many costs a little memory until it is pruned.
 */
static bool site_has_relatives(const struct ksm_site *site, const struct mm_struct *mm,
			       unsigned long own)
{
	struct anon_vma *anon_vma = site->anon_vma;
	struct anon_vma_chain *avc;
	bool found = false;

	if (!anon_vma_trylock_read(anon_vma))
		return true;
	anon_rmap_tree_foreach(avc, anon_vma, site->pgoff, site->pgoff) {
		found = avc->vma->vm_mm != mm ||
			vma_anon_address(avc->vma, site->pgoff, 1) != own;
		if (found)
			break;
	}
	anon_vma_unlock_read(anon_vma);
	return found;
}

/**
 * ksm_site_leave - a site's own mapping is gone or about to go
 * @site: owned by no record any more, unless this fails
 * @mm: whose it was
 * @addr: where
 * @wait: whether to sleep for the folio's lock
 *
 * Frees the site or makes it an heir; frees the node with its last site.
 *
 * Context: the mm's records locked; sleeps if @wait.
 * Return: false when the folio is locked and @wait is not set; nothing changed.
 */
bool ksm_site_leave(struct ksm_site *site, const struct mm_struct *mm, unsigned long addr,
		    bool wait)
{
	struct folio *folio = ksm_stable_lock_folio(site->stable, wait);

	if (IS_ERR(folio))
		return false;
	trace_ksm_remove_rmap_item(READ_ONCE(site->stable->pfn), (void *)site->pgoff, (void *)mm);
	if (folio && folio_mapped(folio) && site_has_relatives(site, mm, addr) &&
	    !site_has_double(site))
		ksm_site_bequeath(site);
	else
		ksm_site_drop(site, folio);
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
	if (kept) {
		guard(spinlock)(&heirs.lock);
		list_add_tail(&stable->heirs, &heirs.list);
		heirs.nr++;
	}
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
