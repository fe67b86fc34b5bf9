package pins

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
	"gorm.io/gorm"
)

// settingBlocks changes with every change of what is blocked, in its transaction.
const settingBlocks = "blocks_version"

const blockColumns = `id, cid, reason, blocked_by, blocked_ms`

func scanBlock(from row) (b Block, err error) {
	var text string
	var ms int64
	if err := from.Scan(&b.ID, &text, &b.Reason, &b.By, &ms); err != nil {
		return Block{}, err
	}
	if b.CID, err = cid.Decode(text); err != nil {
		return Block{}, fmt.Errorf("decoding the cid of block %d: %w", b.ID, err)
	}
	b.At = fromMS(ms)
	return b, nil
}

func (b *Blocks) add(ctx context.Context, wanted Block) (block Block, added bool, err error) {
	err = b.db.Write(ctx, func(tx *gorm.DB) error {
		hash := wanted.CID.Hash().HexString()
		fresh := tx.Exec(`INSERT INTO blocked_content (multihash, cid, reason, blocked_by, blocked_ms) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (multihash) DO NOTHING`, hash, wanted.CID.String(), wanted.Reason, wanted.By, wanted.At.UnixMilli())
		if fresh.Error != nil {
			return fresh.Error
		}
		added = fresh.RowsAffected > 0
		if added {
			if err := setSetting(tx, settingBlocks, uuid.NewString()); err != nil {
				return err
			}
		}
		block, err = scanBlock(tx.Raw(`SELECT `+blockColumns+` FROM blocked_content WHERE multihash = ?`, hash).Row())
		return err
	})
	return block, added, err
}

func (b *Blocks) remove(ctx context.Context, hash multihash.Multihash) error {
	return b.db.Write(ctx, func(tx *gorm.DB) error {
		gone := tx.Exec(`DELETE FROM blocked_content WHERE multihash = ?`, hash.HexString())
		if gone.Error != nil {
			return gone.Error
		}
		if gone.RowsAffected == 0 {
			return ErrNotBlocked
		}
		return setSetting(tx, settingBlocks, uuid.NewString())
	})
}

func (b *Blocks) list(ctx context.Context, after int64, limit int) (list []Block, err error) {
	err = b.db.Read(ctx, func(tx *gorm.DB) error {
		list = nil
		return query(tx, func(r row) error {
			block, err := scanBlock(r)
			list = append(list, block)
			return err
		}, `SELECT `+blockColumns+` FROM blocked_content WHERE id > ? ORDER BY id LIMIT ?`, after, limit)
	})
	return list, err
}

// blocksAfter returns what is blocked unless that is known already: the version is the one that known has.
func (s *store) blocksAfter(ctx context.Context, known string) (set *blockSet, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		set = nil
		var version string
		if err := tx.Raw(`SELECT value FROM pin_settings WHERE name = ?`, settingBlocks).Row().Scan(&version); err != nil {
			return err
		}
		if version == known {
			return nil
		}
		set = &blockSet{version: version, hashes: map[string]struct{}{}}
		return query(tx, func(r row) error {
			var text string
			if err := r.Scan(&text); err != nil {
				return err
			}
			hash, err := multihash.FromHexString(text)
			set.hashes[string(hash)] = struct{}{}
			return err
		}, `SELECT multihash FROM blocked_content`)
	})
	return set, err
}

// isBlocked tells whether content is blocked, in the transaction that would keep it.
func isBlocked(tx *gorm.DB, c cid.Cid) (blocked bool, err error) {
	err = tx.Raw(`SELECT EXISTS (SELECT 1 FROM blocked_content WHERE multihash = ?)`, c.Hash().HexString()).Row().Scan(&blocked)
	return blocked, err
}

// A blockedRoot is a root whose content is blocked.
type blockedRoot struct {
	Root
	claimed bool // somebody works on it
}

// blockedRoots returns those of the roots that a pin still names.
func (s *store) blockedRoots(ctx context.Context, cids []string) (roots []blockedRoot, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		roots = nil
		return query(tx, func(r row) error {
			var holder string
			root, err := scanRoot(r, &holder)
			roots = append(roots, blockedRoot{root, holder != ""})
			return err
		}, `SELECT `+rootColumns+`, r.claimed_by FROM roots r WHERE r.cid IN ? AND r.hot <> 'releasing'`, cids)
	})
	return roots, err
}

// block gives a root up whose content is blocked, and tells whether it did. A claim stays: whoever has it finds out when
// he reports.
func (s *store) block(ctx context.Context, id int64) (given bool, err error) {
	err = s.db.Write(ctx, func(tx *gorm.DB) error {
		given = false
		before, holder, err := lockRoot(tx, `r.id = ?`, id)
		if errors.Is(err, errStale) || err == nil && before.Hot == HotReleasing {
			return nil
		}
		if err != nil {
			return err
		}
		blocked, err := isBlocked(tx, before.CID)
		if err != nil || !blocked {
			return err
		}
		given = true
		return s.saveRoot(tx, before, GivenUp(before, blockedReason), holder)
	})
	return given, err
}
