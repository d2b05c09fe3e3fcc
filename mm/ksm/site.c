// SPDX-License-Identifier: GPL-2.0-only
/*
 * Sites: the places known to map merged folios.
 *
 * Every mapping of a merged folio lies, at a site's index, in the tree of that
 * site's anon_vma: either the site is the mapping, or the mapping was forked
 * from it. A site that goes away while relatives of its VMA exist stays as an
 * heir until none of them maps the folio any more, so that reverse-mapping
 * walks miss nothing; see heir.c.
 *
 * They visit nothing twice, either. Trees of two anon_vmas have nothing in common, or
 * one is a part of the other: that of an ancestor holds all VMAs of its descendants. Of
 * sites with one index whose trees are nested all are given the outermost anon_vma of
 * these. They are doubles then: they stand side by side, and a walk visits the first.
 */
#include <linux/rmap.h>
#include <linux/slab.h>
#include <trace/events/ksm.h>

#include "check.h"

static struct kmem_cache *ksm_site_cache __ro_after_init;

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

/* The site before another one, or NULL. */
static struct ksm_site *site_before(const struct ksm_site *site)
{
	if (site->link.pprev == &site->stable->sites.first)
		return NULL;
	return container_of(site->link.pprev, struct ksm_site, link.next);
}

/**
 * ksm_site_has_double - whether another site leads to the same relatives
 * @site: attached
 *
 * Context: the node's folio locked, or its root.
 * Return: true if there is one.
 */
bool ksm_site_has_double(const struct ksm_site *site)
{
	const struct ksm_site *other = site_before(site);

	if (other && ksm_sites_are_doubles(other, site))
		return true;
	other = hlist_entry_safe(site->link.next, struct ksm_site, link);
	return other && ksm_sites_are_doubles(other, site);
}

/*
 * Takes a site out of its node's list; the root is locked. Sites at both sides of it may
 * be doubles that were not known to be any.
 */
static void unlink_site(struct ksm_site *site)
{
	struct ksm_site *next = hlist_entry_safe(site->link.next, struct ksm_site, link);
	struct ksm_site *before = site_before(site);

	site->stable->nr_distinct -= !ksm_site_has_double(site);
	hlist_del(&site->link);
	if (before && next && ksm_sites_are_doubles(before, next))
		site->stable->nr_distinct -= !ksm_sites_are_doubles(before, site);
}

/* Puts a site behind its double, or before all others if it has none. */
static void link_site(struct ksm_stable *stable, struct ksm_site *site, struct ksm_site *twin)
{
	struct ksm_root *root = ksm_stable_root(stable);

	site->stable = stable;
	guard(spinlock)(&root->lock);
	if (twin)
		hlist_add_behind(&site->link, &twin->link);
	else
		hlist_add_head(&site->link, &stable->sites);
	stable->nr_distinct += !ksm_site_has_double(site);
	if (!stable->nr_sites++)
		atomic_long_inc(&ksm_stat.shared);
	ksm_stable_settle(root, stable);
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

/*
 * Whether sites of a node may lead to a place, or its own to theirs. Most VMAs have no
 * relatives and were never moved: no other page has the index of one of theirs. But an
 * heir may have been left at this very place.
 */
static bool may_have_double(const struct ksm_stable *stable, const struct vm_area_struct *vma,
			    unsigned long addr)
{
	const struct anon_vma *anon_vma = vma->anon_vma;

	if (stable->nr_heirs || anon_vma->root != anon_vma ||
	    linear_anon_page_index(vma, addr) != addr >> PAGE_SHIFT)
		return true;
	/* A relative that comes meanwhile has no site yet. */
	return data_race(anon_vma->num_children > 1 || anon_vma->num_active_vmas > 1);
}

/*
 * Whether an anon_vma's tree is a part of another's. As trees are nested, one VMA of it tells.
 * Who is whose parent does not: an anon_vma of a process that is gone is used again for a
 * descendant, whose VMAs are in the trees between, too. The root's lock is held.
 */
static bool is_part_of(struct anon_vma *part, struct anon_vma *whole)
{
	struct anon_vma_chain *avc = anon_rmap_tree_iter_first(part, 0, ULONG_MAX);
	const struct vm_area_struct *vma;
	pgoff_t index;

	if (!avc)
		return false;
	vma = avc->vma;
	index = linear_anon_page_index(vma, vma->vm_start);
	anon_rmap_tree_foreach(avc, whole, index, index) {
		if (avc->vma == vma)
			return true;
	}
	return false;
}

/* A site of a descendant becomes a double of an ancestor's. Returns the anon_vma it had. */
static struct anon_vma *move_site(struct ksm_site *site, struct ksm_site *ancestor)
{
	struct ksm_stable *stable = site->stable;
	struct ksm_root *root = ksm_stable_root(stable);
	struct anon_vma *anon_vma = site->anon_vma;

	guard(spinlock)(&root->lock);
	unlink_site(site);
	get_anon_vma(ancestor->anon_vma);
	site->anon_vma = ancestor->anon_vma;
	hlist_add_behind(&site->link, &ancestor->link);
	ksm_stable_settle(root, stable);
	return anon_vma;
}

/*
 * Sites whose trees are a part of another's, and were there before it, become doubles of
 * that. The lock keeps the trees still.
 */
static void gather_descendants(struct ksm_site *ancestor)
{
	struct anon_vma *anon_vma = ancestor->anon_vma;
	struct hlist_node *next;
	struct ksm_site *site;

	hlist_for_each_entry_safe(site, next, &ancestor->stable->sites, link) {
		if (site->pgoff != ancestor->pgoff || site->anon_vma->root != anon_vma->root ||
		    site->anon_vma == anon_vma || !is_part_of(site->anon_vma, anon_vma))
			continue;
		/* Not the last reference: its tree has VMAs. */
		put_anon_vma(move_site(site, ancestor));
	}
}

static struct ksm_site *find_reaching(struct ksm_stable *stable, const struct vm_area_struct *vma,
				      unsigned long addr)
{
	struct ksm_site *site;

	for (site = ksm_site_first(stable); site; site = ksm_site_next_distinct(site))
		if (ksm_site_reaches(site, vma, addr))
			return site;
	return NULL;
}

/**
 * ksm_site_add - let a place be found
 * @stable: the node
 * @vma: the VMA
 * @addr: where in it the folio is or will be mapped
 * @mapped: it is, and so a site that leads there is known
 *
 * Context: the node's folio locked; the mmap_lock held. Does not sleep.
 * Return: a site, owned by the caller; ERR_PTR(-ENOSPC) when the node is full, -EAGAIN when
 * the place's relatives are locked, or -ENOMEM.
 */
struct ksm_site *ksm_site_add(struct ksm_stable *stable, struct vm_area_struct *vma,
			      unsigned long addr, bool mapped)
{
	bool family = mapped || may_have_double(stable, vma, addr);
	struct ksm_site *twin = family ? find_reaching(stable, vma, addr) : NULL;
	struct anon_vma *anon_vma = twin ? twin->anon_vma : vma->anon_vma;
	struct ksm_site *site;

	/* What is reached makes walks no longer. */
	if (!twin && ksm_stable_full(stable))
		return ERR_PTR(-ENOSPC);
	family &= !twin;
	if (family &&
	    (ksm_point_fails(KSM_POINT_LOCK_ANON_VMA) || !anon_vma_trylock_read(anon_vma)))
		return ERR_PTR(-EAGAIN);
	site = ksm_site_alloc(anon_vma, linear_anon_page_index(vma, addr));
	if (site) {
		link_site(stable, site, twin);
		if (family)
			gather_descendants(site);
	}
	if (family)
		anon_vma_unlock_read(anon_vma);
	return site ?: ERR_PTR(-ENOMEM);
}

/**
 * ksm_site_attach - add its first site to a node
 * @stable: the node
 * @site: not attached
 *
 * Context: the node's folio locked.
 */
void ksm_site_attach(struct ksm_stable *stable, struct ksm_site *site)
{
	VM_WARN_ON_ONCE(!hlist_empty(&stable->sites));
	link_site(stable, site, NULL);
}

/* Takes a site off its node, and the node with the last one. */
static void detach(struct ksm_site *site, struct folio *folio)
{
	struct ksm_stable *stable = site->stable;
	struct ksm_root *root = ksm_stable_root(stable);
	bool felled;

	scoped_guard(spinlock, &root->lock) {
		unlink_site(site);
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
	if (folio && folio_mapped(folio) && !ksm_site_has_double(site) &&
	    site_has_relatives(leaving, site, addr))
		ksm_site_bequeath(site);
	else
		drop_leaving(leaving, site, folio);
	if (folio) {
		folio_unlock(folio);
		folio_put(folio);
	}
	return true;
}
