/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Samepage merging: the map of the engine.
 *
 * Vocabulary of mm/ksm/:
 *
 *   registered mm   an address space that takes part (struct ksm_mm)
 *   departed mm     one that exits, and whose merged pages are still to be forgotten
 *   page record     what is known of one page of a registered mm: a state and
 *                   a word, kept in blocks found by address (struct ksm_block)
 *   key             keyed 64-bit checksum of a page's contents; the page's NUMA
 *                   node is part of it unless pages merge across nodes
 *   forest          many red-black trees ordered by key (struct ksm_forest)
 *   secondary MMU   page tables other than the mm's own, such as KVM's for a guest
 *   touched         a page that a secondary MMU read or wrote since the last visit
 *   settled         a page that stayed the same for a pass, with a key that
 *                   nobody else is known to have
 *   sighting        a few bits that tell that a key was seen (struct ksm_sightings)
 *   wanted          a key of which there is a candidate that a settled page may
 *                   be equal to
 *   candidate       a page that stayed the same for a pass and waits for a
 *                   partner (struct ksm_candidate, in the unstable forest)
 *   merged folio    a write-protected folio that several sites may map
 *   stable node     stands for one merged folio (struct ksm_stable, in the
 *                   stable forest)
 *   full            a stable node with as many sites as may share one folio
 *   chain           stable nodes with one key: copies made when others were full
 *   site            one known place that maps a merged folio (struct ksm_site)
 *   double          a site that leads where the one before it does; walks pass it over
 *   heir            a site whose own page went away, kept because processes
 *                   forked from it may still map the merged folio
 *   zero page       the kernel's, put in place of empty pages on request; its
 *                   PTE is marked by the dirty bit and there is no record of it
 *   level           how patient ksmd is with a page that changes; see backoff.c
 *   hurry           passes in which pages that are passed over count for little, as there
 *                   is something to gain; others are calm
 *   round           hashing the pages of a huge page that is dirty somewhere
 *   batch           the pages looked at under one hold of an mm's locks
 *   pass            one round over all registered mms
 *
 * Files: registry (which mms take part), vma (which parts of them), scan (ksmd, passes), advisor
 * (how fast), collect (the walk that finds the pages of a batch), huge (likewise of huge
 * pages), visit (what it does with a page), change (dirty and accessed bits), unchanged
 * (what is passed over), backoff (for how long), batch (locks, hashing), file (what becomes
 * of pages), track (page records), forget (what they own goes with them), checksum, forest,
 * sight (keys that were seen), unstable (candidates), stable (merged folios), site (places
 * that map them), heir (sites that outlive their own mapping), pte (changes of page tables),
 * merge, zero, unmerge, rmap (what the rest of mm calls), sysfs, stat, work (what it all
 * cost, in debugfs), check and check_mm (whether all agrees, likewise), point (where races
 * are made likely, likewise).
 *
 * Lock order, outermost first:
 *
 *   ksm_control                  mutex: run state; held by ksmd for one batch, or
 *                                for the beginning or the end of a pass
 *     mm->mmap_lock
 *       forest_alloc_lock        mutex: the first registration allocates the forests
 *       ksm_mm.lock              mutex: the mm's page records
 *         lock of a merged folio
 *           lock of a folio to be merged into it (trylock only)
 *             anon_vma->rwsem
 *               page table lock
 *                 ksm_root.lock  spinlock: one tree of a forest
 *                 heirs.lock     spinlock: nodes that have heirs
 *                 registry lock  spinlock: list, hash and cursor
 *
 * No two ksm_mm.lock and no two mmap_locks are ever held together.
 */
#ifndef _MM_KSM_KSM_H
#define _MM_KSM_KSM_H

#include <linux/atomic.h>
#include <linux/jiffies.h>
#include <linux/kref.h>
#include <linux/ksm.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/rbtree.h>
#include <linux/spinlock.h>
#include <linux/xarray.h>

#include "../internal.h"
#include "../mm_slot.h"
#include "point.h"

/* Pages with equal keys but different contents are tolerated up to this many. */
#define KSM_KEY_TWINS		8

/* Allocations under an application's locks must neither sleep nor complain. */
#define KSM_GFP			(GFP_NOWAIT | __GFP_NOWARN)

/* ---- forest: red-black trees ordered by key; knows nothing of pages ---- */

/**
 * struct ksm_node - what a forest links
 * @rb: link in the tree of a root; guarded by that root's lock
 * @key: the order; never changes while the node is linked
 */
struct ksm_node {
	struct rb_node rb;
	u64 key;
};

/**
 * struct ksm_root - one tree of a forest
 * @lock: guards @tree and whatever a user of the forest hangs on its nodes
 * @pruned: when the stable forest last looked for nodes whose folio is gone,
 *	low bits of jiffies
 * @tree: nodes ordered by key; equal keys stand in order of insertion, but
 *	ksm_root_insert_first() puts a node before them
 */
struct ksm_root {
	spinlock_t lock;
	u32 pruned;
	struct rb_root tree;
};

/**
 * struct ksm_forest - trees chosen by the top bits of the key
 * @roots: 1 << @bits of them; NULL until an mm is registered for the first time
 * @bits: fixed when the forest is planted
 */
struct ksm_forest {
	struct ksm_root *roots;
	unsigned int bits;
};

unsigned int ksm_forest_bits(unsigned long pages);
int ksm_forest_alloc(struct ksm_forest *forest);
void ksm_forest_plant(struct ksm_forest *forest, struct ksm_root *roots, unsigned int bits);
unsigned long ksm_forest_trees(const struct ksm_forest *forest);
void ksm_forest_prefetch(const struct ksm_forest *forest, u64 key);
struct ksm_root *ksm_forest_root(const struct ksm_forest *forest, u64 key);
void ksm_root_insert(struct ksm_root *root, struct ksm_node *node);
void ksm_root_insert_first(struct ksm_root *root, struct ksm_node *node);
void ksm_root_erase(struct ksm_root *root, struct ksm_node *node);
struct ksm_node *ksm_root_find(struct ksm_root *root, u64 key);
struct ksm_node *ksm_node_next_equal(struct ksm_node *node);

/* ---- checksum ---- */

/* A page's checksum is keyed with this; drawn once at boot. */
extern u64 ksm_checksum_secret __ro_after_init;
/* Changes with ksm_control held and nothing merged. */
extern bool ksm_merge_across_nodes;

/* Whether two pages may be merged as far as their NUMA nodes are concerned. */
static inline bool ksm_nodes_match(int nid1, int nid2)
{
	return nid1 == nid2 || READ_ONCE(ksm_merge_across_nodes);
}

u64 ksm_checksum(const void *data, u64 secret, const void *next);
u64 ksm_page_checksum(struct page *page, struct page *next);
u64 ksm_key(u64 sum, int nid);
u64 ksm_page_key(struct page *page, struct page *next);
void ksm_checksum_init(void);

/* ---- track: page records ---- */

/**
 * enum ksm_state - what is known of a page; says which member of the word lives
 * @KSM_UNSEEN: nothing; the record is free
 * @KSM_HASHED: it is new or changes too fast, known by hashing it at each visit,
 *	because the dirty bit cannot tell here or the page was touched; word.key is
 *	its key at the last visit
 * @KSM_CLEANED: likewise, told by the dirty bit of its PTE, which was handed
 *	over to the folio and cleared at the last visit; word.since is when that was
 * @KSM_SETTLED: it stayed the same for a pass and nobody has an equal one that
 *	is known of; word.key is its key
 * @KSM_CANDIDATE: it stayed the same and somebody may have an equal one;
 *	word.candidate is its node in the unstable forest
 * @KSM_MERGED: word.site is its place on a stable node
 * @KSM_NR_STATES: how many there are
 */
enum ksm_state {
	KSM_UNSEEN,
	KSM_HASHED,
	KSM_CLEANED,
	KSM_SETTLED,
	KSM_CANDIDATE,
	KSM_MERGED,
	KSM_NR_STATES,
};

struct ksm_candidate;
struct ksm_site;

/**
 * union ksm_word - second half of a page record; see enum ksm_state
 * @key: key
 * @since: jiffies when the page was last found changed
 * @candidate: owned by the record
 * @site: owned by the record
 */
union ksm_word {
	u64 key;
	u64 since;
	struct ksm_candidate *candidate;
	struct ksm_site *site;
};

#define KSM_BLOCK_SHIFT		6
#define KSM_BLOCK_PAGES		(1U << KSM_BLOCK_SHIFT)
#define KSM_BLOCK_SIZE		(PAGE_SIZE << KSM_BLOCK_SHIFT)

/**
 * struct ksm_block - the page records of an aligned stretch of address space
 * @map: bit n tells that its nth page has a record; records stand in this order
 * @room: for so many records, at most KSM_BLOCK_PAGES; then each page has one
 * @used: how many are not KSM_UNSEEN
 * @quiet: for how many passes no page is known to have been touched, up to
 *	KSM_QUIET_PASSES
 * @level: how patient ksmd is with the huge page that begins here, 0 if it has not been
 *	found changed
 * @since: low bits of jiffies when its pages were last noted or hashed
 * @word: second halves of the records; behind them the first halves, see
 *	ksm_block_heads()
 *
 * Two arrays, so that a record costs twelve bytes, and what tells that a page
 * has not changed lies together.
 */
struct ksm_block {
	u64 map;
	u8 room;
	u8 used;
	u8 quiet;
	u8 level;
	u32 since;
	union ksm_word word[];
};

/*
 * First halves of the records: enum ksm_state, how patient ksmd is with the page (see
 * backoff.c), and a tag of the PFN that was seen last.
 */
static inline u32 *ksm_block_heads(struct ksm_block *block)
{
	return (u32 *)(block->word + block->room);
}

#define KSM_STATE_BITS		3
#define KSM_STATE_MASK		((1U << KSM_STATE_BITS) - 1)
static_assert(KSM_NR_STATES <= 1 << KSM_STATE_BITS);
#define KSM_LEVEL_BITS		4
#define KSM_LEVEL_MASK		(((1U << KSM_LEVEL_BITS) - 1) << KSM_STATE_BITS)
#define KSM_TAG_SHIFT		(KSM_STATE_BITS + KSM_LEVEL_BITS)
#define KSM_TAG_MASK		(~0U << KSM_TAG_SHIFT)

/* No page has it; its tag is that of one frame in 128 GiB. */
#define KSM_NO_PFN		(~0UL)

/* Low bits of a PFN: different PFNs with one tag are 128 GiB apart at 4 KiB a page. */
static inline u32 ksm_pfn_tag(unsigned long pfn)
{
	return (u32)pfn << KSM_TAG_SHIFT;
}

/**
 * struct ksm_track - all page records of one address space
 * @blocks: struct ksm_block by address >> (PAGE_SHIFT + KSM_BLOCK_SHIFT)
 * @nr_blocks: blocks allocated
 * @bytes: what they take
 * @nr: records by state, except KSM_UNSEEN
 * @totals: KSM_NR_STATES sums over all address spaces, kept up with @nr
 *
 * Guarded by the owner's lock (ksm_mm.lock).
 */
struct ksm_track {
	struct xarray blocks;
	unsigned long nr_blocks;
	unsigned long bytes;
	unsigned long nr[KSM_NR_STATES];
	atomic_long_t *totals;
};

/**
 * struct ksm_record - names one page record; valid until its block gets another
 * @block: where
 * @slot: which
 */
struct ksm_record {
	struct ksm_block *block;
	unsigned int slot;
};

static inline enum ksm_state ksm_record_state(struct ksm_record rec)
{
	return ksm_block_heads(rec.block)[rec.slot] & KSM_STATE_MASK;
}

static inline union ksm_word ksm_record_word(struct ksm_record rec)
{
	return rec.block->word[rec.slot];
}

static inline bool ksm_record_has_tag(struct ksm_record rec, unsigned long pfn)
{
	return (ksm_block_heads(rec.block)[rec.slot] & KSM_TAG_MASK) == ksm_pfn_tag(pfn);
}

/* A record keeps its tag until it becomes KSM_UNSEEN. */
static inline void ksm_record_set_tag(struct ksm_record rec, unsigned long pfn)
{
	u32 *head = &ksm_block_heads(rec.block)[rec.slot];

	*head = (*head & ~KSM_TAG_MASK) | ksm_pfn_tag(pfn);
}

/* See backoff.c; kept until the record becomes KSM_UNSEEN. */
static inline unsigned int ksm_record_level(struct ksm_record rec)
{
	return (ksm_block_heads(rec.block)[rec.slot] & KSM_LEVEL_MASK) >> KSM_STATE_BITS;
}

static inline void ksm_record_set_level(struct ksm_record rec, unsigned int level)
{
	u32 *head = &ksm_block_heads(rec.block)[rec.slot];

	*head = (*head & ~KSM_LEVEL_MASK) | level << KSM_STATE_BITS;
}

/* Whether there is a block, and in it a record of the page at @addr. */
static inline bool ksm_block_find(struct ksm_block *block, unsigned long addr,
				  struct ksm_record *rec)
{
	unsigned int nth = (addr >> PAGE_SHIFT) & (KSM_BLOCK_PAGES - 1);

	if (!block || !(block->map & BIT_ULL(nth)))
		return false;
	rec->block = block;
	rec->slot = block->room == KSM_BLOCK_PAGES ? nth :
						     hweight64(block->map & (BIT_ULL(nth) - 1));
	return true;
}

/* Takes back what a record owns, as that is about to be forgotten; false: it stays. */
typedef bool ksm_take_back_fn(struct ksm_track *track, unsigned long addr, struct ksm_record rec,
			      void *arg);

void ksm_track_cache_create(void);
void ksm_track_init(struct ksm_track *track, atomic_long_t *totals);
struct ksm_block *ksm_track_block(struct ksm_track *track, unsigned long addr);
void ksm_track_prefetch(const struct ksm_block *block);
bool ksm_track_find(struct ksm_track *track, unsigned long addr, struct ksm_record *rec);
int ksm_track_store(struct ksm_track *track, unsigned long addr, struct ksm_block *block,
		    gfp_t gfp);
int ksm_track_get(struct ksm_track *track, unsigned long addr, gfp_t gfp, struct ksm_record *rec);
void ksm_track_set(struct ksm_track *track, struct ksm_record rec, enum ksm_state state,
		   union ksm_word word);
bool ksm_track_next(struct ksm_track *track, unsigned long *addr, unsigned long last,
		    struct ksm_record *rec);
void ksm_track_trim(struct ksm_track *track, unsigned long addr, unsigned long last);
void ksm_track_forget(struct ksm_track *track, unsigned long addr, unsigned long last,
		      ksm_take_back_fn *take_back, void *arg);
unsigned long ksm_track_records(const struct ksm_track *track);

/* ---- backoff: how long a page must be left alone ---- */

unsigned int ksm_backoff_unit(void);
unsigned long ksm_backoff_wait(unsigned int unit, unsigned int level);
unsigned int ksm_backoff_changed(enum ksm_state state, unsigned int level);
unsigned int ksm_backoff_rewritten(unsigned int unit, unsigned int level, u32 lived);

/**
 * struct ksm_fate - what became of pages of an mm that were merged lately
 * @merged: how many
 * @wasted: pages that were written to or went away soon after it
 */
struct ksm_fate {
	unsigned int merged;
	unsigned int wasted;
};

void ksm_fate_merged(struct ksm_fate *fate);
void ksm_fate_ended(struct ksm_fate *fate, unsigned int unit, u32 lived);
unsigned int ksm_backoff_first(const struct ksm_fate *fate, unsigned int unit);

/* ---- registry: who takes part ---- */

/**
 * struct ksm_mm - a registered mm
 * @slot: hash and list links and the mm itself (pinned by mmgrab()); the links
 *	are guarded by the registry lock
 * @ref: one for the registry, one for each user found through a candidate or
 *	the cursor
 * @lock: guards @gone and @track, and keeps the mm's page tables in being for
 *	the holder as long as @gone is not set: the exit hook takes it
 * @gone: the exit hook has run or the mm was taken off; hands off its page tables. It may
 *	have records of merged pages all the same, until it is buried
 * @track: the page records
 * @next: address where the scanner goes on; scanner only
 * @met: a VMA that takes part was met in this pass; scanner only
 * @fate: of its merged pages; scanner only
 * @huge_round: start of the huge page whose pages are being hashed, or 0; scanner only
 * @huge_news: pages of that with news, see ksm_huge_has_news(); scanner only
 * @busy: how often its locks were tried for in vain since they were had; scanner only
 * @anon: anonymous pages of the mm when a pass last came to it; scanner only
 * @born: jiffies when it was registered
 * @young: it was so lately, as far as is known; scanner only
 * @out_since: ksm_whole_passes when a pass first went on without it; scanner only
 */
struct ksm_mm {
	struct mm_slot slot;
	struct kref ref;
	struct mutex lock;
	bool gone;
	struct ksm_track track;
	unsigned long next;
	bool met;
	struct ksm_fate fate;
	unsigned long huge_round;
	unsigned int huge_news;
	unsigned int busy;
	unsigned int out_since;
	unsigned long anon;
	unsigned long born;
	bool young;
};

/* Whether it was registered within the last @age jiffies; ksm_control held. */
static inline bool ksm_mm_is_young(struct ksm_mm *kmm, unsigned long age)
{
	if (kmm->young && time_after_eq(jiffies, kmm->born + age))
		kmm->young = false;
	return kmm->young;
}

void ksm_registry_init(void);
bool ksm_registry_empty(void);
struct ksm_mm *ksm_registry_current(void);
void ksm_registry_rewind(bool all);
void ksm_registry_advance(struct ksm_mm *kmm);
bool ksm_registry_has_grown(unsigned int max, unsigned long age);
bool ksm_registry_misses_some(void);
void ksm_registry_find_missed(bool at_once);
struct ksm_mm *ksm_mm_find(struct mm_struct *mm);
void ksm_mm_put(struct ksm_mm *kmm);
bool ksm_mm_lock(struct ksm_mm *kmm);
bool ksm_mm_trylock(struct ksm_mm *kmm);
void ksm_mm_unlock(struct ksm_mm *kmm);
void ksm_mm_retire(struct ksm_mm *kmm);
void ksm_registry_bury(void);
bool ksm_vma_mergeable(const struct vm_area_struct *vma);
struct vm_area_struct *ksm_vma_lookup(struct mm_struct *mm, unsigned long addr);

static inline void ksm_mm_get(struct ksm_mm *kmm)
{
	kref_get(&kmm->ref);
}

/* ---- unstable: candidates ---- */

/**
 * struct ksm_candidate - a page that waits for a partner
 * @node: in the unstable forest; its key is the page's when filed
 * @kmm: whose page; no reference, the record that owns the candidate goes first
 * @addr: where
 * @filed: ksm_whole_passes when it was filed
 */
struct ksm_candidate {
	struct ksm_node node;
	struct ksm_mm *kmm;
	unsigned long addr;
	unsigned int filed;
};

/**
 * struct ksm_partner - a candidate as found, usable after its tree's lock is gone
 * @kmm: with a reference
 * @addr: where
 * @busy: if there is none: of those that cannot be had now there is one
 */
struct ksm_partner {
	struct ksm_mm *kmm;
	unsigned long addr;
	bool busy;
};

/* A candidate without a partner settles after so many whole passes. */
#define KSM_CANDIDATE_PASSES	2

static inline bool ksm_candidate_waited(const struct ksm_candidate *candidate, unsigned int pass)
{
	return pass - candidate->filed >= KSM_CANDIDATE_PASSES;
}

void ksm_unstable_init(void);
int ksm_unstable_prepare(void);
void ksm_unstable_prefetch(u64 key);
bool ksm_unstable_find(u64 key, const struct ksm_mm *kmm, unsigned long addr,
		       struct ksm_partner *partner);
int ksm_unstable_add(struct ksm_mm *kmm, unsigned long addr, struct ksm_record rec, u64 key);
void ksm_unstable_del(struct ksm_candidate *candidate);
void ksm_unstable_settle(struct ksm_mm *kmm, struct ksm_record rec);

/* ---- sight: keys that were seen ---- */

void ksm_sight_begin_pass(unsigned long records);
void ksm_sight_end_pass(void);
void ksm_sight_reset(void);
bool ksm_sight_in_use(void);
bool ksm_sight_note(u64 key);
bool ksm_sight_renew(u64 key);
void ksm_sight_want(u64 key);
bool ksm_sight_looks_for(u64 key);
bool ksm_sight_wanting(void);
bool ksm_sight_wanted_lately(void);
bool ksm_sight_renewing(void);
void *ksm_sight_alloc(size_t bytes);

/*
 * Keys that are wanted, once more: two bits of one word for a key. This answers for most
 * keys, as most are not wanted, and stays in the cache. ksm_control.
 */
#define KSM_GLANCE_WORD_BITS	9
#define KSM_GLANCE_WORDS	(1 << KSM_GLANCE_WORD_BITS)
extern u64 ksm_sight_glance[KSM_GLANCE_WORDS];

static inline unsigned int ksm_glance_word(u64 key)
{
	return key >> (64 - KSM_GLANCE_WORD_BITS);
}

static inline u64 ksm_glance_bits(u64 key)
{
	return BIT_ULL(key >> 49 & 63) | BIT_ULL(key >> 43 & 63);
}

/* Whether a settled page may have become interesting: true for some other keys, too. */
static inline bool ksm_sight_wanted(u64 key)
{
	u64 word = ksm_sight_glance[ksm_glance_word(key)];

	return (word >> (key >> 49 & 63) & word >> (key >> 43 & 63) & 1) &&
	       ksm_sight_looks_for(key);
}

/* ---- stable: merged folios ---- */

/**
 * struct ksm_stable - stands for one merged folio
 * @node: in the stable forest
 * @pfn: of the folio, which points back by its mapping word; root's lock
 * @sites: changed under the folio's lock (while there is a folio) and the
 *	root's lock; walked under either
 * @nr_sites: sites that are no heirs; guarded as @sites
 * @nr_heirs: guarded as @sites
 * @nr_distinct: sites and heirs that a walk visits, not their doubles; guarded as @sites
 * @full: stands behind those with room in its chain; root's lock
 * @heirs: link among the nodes that have heirs; guarded by the heirs lock
 *
 * Keeps no reference on the folio: that may be reclaimed at any time, and the
 * node goes with its last site.
 */
struct ksm_stable {
	struct ksm_node node;
	unsigned long pfn;
	struct hlist_head sites;
	unsigned int nr_sites;
	unsigned int nr_heirs;
	unsigned int nr_distinct;
	bool full;
	struct list_head heirs;
};

/**
 * struct ksm_site - a place known to map a merged folio
 * @link: in the node's @sites
 * @stable: the node; fixed while linked
 * @anon_vma: with a reference; its tree holds the VMA, and those forked from it. It is the
 *	VMA's own or an ancestor; an ancestor's may be put in its place, guarded as the node's
 *	@sites
 * @pgoff: index of the place in @anon_vma
 * @since: low bits of jiffies when a record came to own it
 * @heir: no record owns it any more
 */
struct ksm_site {
	struct hlist_node link;
	struct ksm_stable *stable;
	struct anon_vma *anon_vma;
	pgoff_t pgoff;
	u32 since;
	bool heir;
};

static inline bool ksm_sites_are_doubles(const struct ksm_site *a, const struct ksm_site *b)
{
	return a->pgoff == b->pgoff && a->anon_vma == b->anon_vma;
}

/* The next site that leads elsewhere, or NULL. */
static inline struct ksm_site *ksm_site_next_distinct(const struct ksm_site *site)
{
	struct ksm_site *next = hlist_entry_safe(site->link.next, struct ksm_site, link);

	while (next && ksm_sites_are_doubles(next, site))
		next = hlist_entry_safe(next->link.next, struct ksm_site, link);
	return next;
}

/* The first of those that a walk has to visit to meet each mapping once; may be NULL. */
static inline struct ksm_site *ksm_site_first(const struct ksm_stable *stable)
{
	return hlist_entry_safe(stable->sites.first, struct ksm_site, link);
}

/* Sites that may share one folio; changes with ksm_control held and nothing merged. */
extern unsigned int ksm_max_page_sharing;
extern unsigned int ksm_chains_prune_millisecs;

void ksm_stable_init(void);
int ksm_stable_prepare(void);
struct ksm_stable *ksm_stable_alloc(void);
void ksm_stable_free(struct ksm_stable *stable);
struct ksm_root *ksm_stable_root(const struct ksm_stable *stable);
void ksm_stable_drop(struct ksm_stable *stable, struct folio *folio);
bool ksm_stable_full(const struct ksm_stable *stable);
bool ksm_stable_settle(struct ksm_root *root, struct ksm_stable *stable);
void ksm_stable_move(struct ksm_stable *stable, struct folio *newfolio, struct folio *folio);
struct ksm_stable *ksm_folio_stable(const struct folio *folio);
bool ksm_stable_owns(const struct ksm_stable *stable, const struct folio *folio);
struct folio *ksm_stable_lock_folio(const struct ksm_stable *stable, bool wait);
void ksm_stable_prefetch(u64 key);
unsigned int ksm_stable_find(u64 key, struct folio *found[KSM_KEY_TWINS]);
void ksm_stable_plant(struct ksm_stable *stable, struct folio *folio, u64 key);
void ksm_stable_forget_pfns(unsigned long start_pfn, unsigned long nr_pages);

/* ---- site: who maps merged folios ---- */

/**
 * struct ksm_leaving - sites of an mm that leave one after the other
 * @mm: whose; it does not fork meanwhile
 * @wait: whether to sleep for locks of merged folios
 * @alone: the tree of this anon_vma holds nothing but one VMA of @mm at most, or NULL
 * @offset: in that VMA, addresses less indices in bytes
 * @gone: room for KSM_LEAVING sites that are to be freed together, or NULL
 * @nr_gone: how many there are
 */
struct ksm_leaving {
	const struct mm_struct *mm;
	bool wait;
	const struct anon_vma *alone;
	unsigned long offset;
	struct ksm_site **gone;
	unsigned int nr_gone;
};

#define KSM_LEAVING	32

void ksm_site_init(void);
struct ksm_site *ksm_site_alloc(struct anon_vma *anon_vma, pgoff_t pgoff);
void ksm_site_free(struct ksm_site *site);
struct ksm_site *ksm_site_add(struct ksm_stable *stable, struct vm_area_struct *vma,
			      unsigned long addr, bool mapped);
void ksm_site_attach(struct ksm_stable *stable, struct ksm_site *site);
bool ksm_site_has_double(const struct ksm_site *site);
void ksm_site_drop(struct ksm_site *site, struct folio *folio);
bool ksm_site_leave(struct ksm_leaving *leaving, struct ksm_site *site, unsigned long addr);
void ksm_sites_left(struct ksm_leaving *leaving);
bool ksm_site_reaches(const struct ksm_site *site, const struct vm_area_struct *vma,
		      unsigned long addr);

/* ---- heir: sites that outlive their own mapping ---- */

/* Nodes with heirs looked at under one hold of ksm_control. */
#define KSM_PRUNE_STEP		64U

struct ksm_site *ksm_site_inherit(struct ksm_stable *stable, const struct vm_area_struct *vma,
				  unsigned long addr);
void ksm_site_bequeath(struct ksm_site *site);
unsigned int ksm_site_prune_heirs(void);
bool ksm_site_prune_step(bool again);
unsigned int ksm_site_nr_heirs(void);

/* ---- change: dirty bits, and frames that come to be mapped by clean entries ---- */

bool ksm_dirty_bit_tells(const struct vm_area_struct *vma);
void ksm_frame_note(struct folio *folio);
void ksm_frames_begin_pass(void);

/* ---- forget: page records, with what they own ---- */

bool ksm_forget_record(struct ksm_mm *kmm, unsigned long addr, struct ksm_record rec, bool wait);
bool ksm_replace_record(struct ksm_mm *kmm, unsigned long addr, struct ksm_record rec,
			enum ksm_state state, union ksm_word word);
void ksm_forget_range(struct ksm_mm *kmm, unsigned long start, unsigned long last);
void ksm_forget_but_merged(struct ksm_mm *kmm);

/* ---- batch and scan ---- */

/* Pages hashed under one hold of the locks: bounds what others wait for. */
#define KSM_BATCH_PAGES		128
/*
 * What it costs to look at a page, in parts of what hashing one costs, which is
 * what pages_to_scan and batches count in.
 */
#define KSM_COST_HASHED		64
#define KSM_COST_ASKED		16
#define KSM_COST_CHANGED	8
#define KSM_COST_UNCHANGED	1
/* An mm without pages is work, too; so is what is gone over to find none. */
#define KSM_COST_MM		16
#define KSM_COST_PART		8
/* Passes so far that left nobody out, or count as if; ksm_control. */
extern unsigned int ksm_whole_passes;
/* Batches that try for an mm's locks in vain before passes go on without, 10 ms each. */
#define KSM_BUSY_TRIES		64

/* Not if a pass has counted as whole without it and it is still busy. */
static inline bool ksm_mm_regarded(const struct ksm_mm *kmm)
{
	return kmm->busy < KSM_BUSY_TRIES || kmm->out_since == ksm_whole_passes;
}

/* A page is hashed again in every so many of them, whatever its dirty bit says; 2^n. */
#define KSM_REFRESH_PASSES	256
/* In so many of them, this one included, all pages are hashed again; ksm_control. */
extern unsigned int ksm_refresh_passes;
/*
 * What is gone over under one hold of the locks, pages in it or not: page tables, holes
 * where there could be one, VMAs that do not take part.
 */
#define KSM_BATCH_PARTS		512
/* Records forgotten under one hold of the locks where nothing is mapped. */
#define KSM_BATCH_FORGET	4096
/* Pages hashed when somebody waits to change the mm's layout. */
#define KSM_BATCH_HURRIED	16

struct ksm_batch;

/**
 * enum ksm_batch_end - how a batch ended
 * @KSM_BATCH_STOPPED: it goes on in the same mm
 * @KSM_BATCH_DONE: the pass is through with the mm, or the mm is gone
 * @KSM_BATCH_BUSY: the mm's locks could not be had, and nothing was done
 */
enum ksm_batch_end {
	KSM_BATCH_STOPPED,
	KSM_BATCH_DONE,
	KSM_BATCH_BUSY,
};

/**
 * struct ksm_batch_result - what became of a batch
 * @end: how it ended
 * @work: done, in parts of hashing a page
 * @considered: present pages seen
 * @found: pages seen for the first time, and pages merged that have not been before
 * @changed: pages found changed that had not changed since they were first seen
 */
struct ksm_batch_result {
	enum ksm_batch_end end;
	unsigned int work;
	unsigned int considered;
	unsigned int found;
	unsigned int changed;
};

struct ksm_batch *ksm_batch_alloc(void);
void ksm_batch_free(struct ksm_batch *batch);
struct ksm_batch_result ksm_batch_run(struct ksm_batch *batch, struct ksm_mm *kmm, u64 max_work,
				      bool sweeping, bool calm);

/* Values of ksm_run; what sysfs reads and writes. */
enum ksm_run_state {
	KSM_RUN_STOP = 0,
	KSM_RUN_MERGE = 1,
	KSM_RUN_UNMERGE = 2,
};

extern struct mutex ksm_control;
extern unsigned int ksm_run;

/* Default of pages_to_scan. */
#define KSM_PAGES_TO_SCAN	100

extern unsigned int ksm_pages_to_scan;
extern bool ksm_smart_scan;

int ksm_scan_init(void);
void ksm_scan_wake(void);
void ksm_scan_kick(void);
void ksm_scan_hurry(void);
void ksm_scan_reset(void);
unsigned int ksm_scan_sleep_millisecs(void);
void ksm_scan_set_sleep_millisecs(unsigned int msecs);

/* ---- advisor: how fast to scan ---- */

/**
 * enum ksm_advisor_mode - what sysfs calls none and scan-time
 * @KSM_ADVISOR_NONE: pages_to_scan is the administrator's
 * @KSM_ADVISOR_SCAN_TIME: set after each pass for the next to take the target time
 */
enum ksm_advisor_mode {
	KSM_ADVISOR_NONE,
	KSM_ADVISOR_SCAN_TIME,
};

extern enum ksm_advisor_mode ksm_advisor_mode;
extern unsigned int ksm_advisor_max_cpu;
extern unsigned int ksm_advisor_min_pages;
extern unsigned int ksm_advisor_max_pages;
extern unsigned long ksm_advisor_target_secs;

void ksm_advisor_set_mode(enum ksm_advisor_mode mode);
void ksm_advisor_begin_pass(void);
void ksm_advisor_forget_pass(void);
void ksm_advisor_end_pass(void);
unsigned int ksm_advise(unsigned int pages, u64 wall_ns, u64 cpu_ns);

/* ---- pte: changes of page tables, one page at a time ---- */

bool ksm_pages_equal(struct page *a, struct page *b);
void ksm_flush_aliases(struct ksm_mm *kmm, unsigned long addr, struct page *page);
struct page *ksm_get_page(struct vm_area_struct *vma, unsigned long addr);
bool ksm_vma_maps(struct vm_area_struct *vma, unsigned long addr, const struct page *page);
bool ksm_page_is_kept(struct folio *folio, struct page *page);
struct folio *ksm_lock_small_folio(struct page *page);
int ksm_write_protect(struct vm_area_struct *vma, unsigned long addr, struct folio *folio,
		      struct page *page, bool *shared);
int ksm_exchange_page(struct vm_area_struct *vma, unsigned long addr, struct page *page,
		      struct page *kpage);
void ksm_put_replaced(struct page *page);
void ksm_free_replaced(void);

/* ---- merge, zero and unmerge ---- */

/* Empty pages are replaced by the kernel's zero page. */
extern bool ksm_use_zero_pages;

void ksm_zero_init(void);
bool ksm_key_is_zero(u64 key, int nid);
int ksm_merge_zero(struct ksm_mm *kmm, struct vm_area_struct *vma, unsigned long addr);
int ksm_merge(struct ksm_mm *kmm, struct vm_area_struct *vma, unsigned long addr,
	      struct folio *kfolio);
int ksm_adopt(struct ksm_mm *kmm, struct vm_area_struct *vma, unsigned long addr,
	      struct folio *kfolio);
bool ksm_is_kept(struct vm_area_struct *vma, unsigned long addr);
int ksm_promote(struct ksm_mm *kmm, unsigned long addr, u64 key, unsigned long pfn, bool shared);
int ksm_unmerge_range(struct vm_area_struct *vma, unsigned long start, unsigned long end);
int ksm_unmerge_all(void);

/* ---- stat and sysfs ---- */

/**
 * struct ksm_stat - counters of the whole system
 * @records: page records by state
 * @shared: stable nodes that have sites other than heirs
 * @chains: keys that several stable nodes have
 * @dups: those nodes
 * @scanned: pages considered since boot
 * @skipped: of these, passed over as unchanged
 * @passes: passes since boot that came to their end
 * @bytes: metadata allocated, in bytes
 */
struct ksm_stat {
	atomic_long_t records[KSM_NR_STATES];
	atomic_long_t shared;
	atomic_long_t chains;
	atomic_long_t dups;
	atomic_long_t scanned;
	atomic_long_t skipped;
	atomic_long_t passes;
	atomic_long_t bytes;
};

extern struct ksm_stat ksm_stat;

long ksm_stat_records(void);
long ksm_stat_sharing(void);
long ksm_stat_unshared(void);
long ksm_stat_volatile(void);
long ksm_stat_profit(void);
void *ksm_cache_alloc(struct kmem_cache *cache, gfp_t gfp);
void ksm_cache_free(struct kmem_cache *cache, void *object);
void ksm_cache_free_bulk(struct kmem_cache *cache, unsigned int nr, void **objects);
int ksm_sysfs_init(void);

#endif /* _MM_KSM_KSM_H */
