package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ipfs/boxo/path"
	"github.com/ipfs/go-cid"
	"github.com/spf13/cobra"
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/retrieval/deny"
	"github.com/frostpin/frostpin/server"
)

// A blocklist blocks content and has the audit say who did.
type blocklist struct {
	*pins.Blocks
	db       *database.DB
	accounts *auth.Service
}

var _ server.Blocklist = blocklist{}

func newBlocklist(db *database.DB, accounts *auth.Service, now func() time.Time) blocklist {
	return blocklist{pins.NewBlocks(db, now), db, accounts}
}

// Block implements server.Blocklist.
func (l blocklist) Block(ctx context.Context, by auth.Actor, c cid.Cid, reason string) (b pins.Block, added bool, err error) {
	name := auth.OperatorName
	if by.Account != 0 {
		account, err := l.accounts.Account(ctx, by.Account)
		if err != nil {
			return pins.Block{}, false, err
		}
		name = account.Name
	}
	err = l.db.Write(ctx, func(tx *gorm.DB) error {
		ctx := tx.Statement.Context
		if b, added, err = l.Add(ctx, c, reason, name); err != nil || !added {
			return err
		}
		return l.accounts.NoteBlock(ctx, by, c.String(), reason)
	})
	return b, added, err
}

// Unblock implements server.Blocklist.
func (l blocklist) Unblock(ctx context.Context, by auth.Actor, c cid.Cid) error {
	return l.db.Write(ctx, func(tx *gorm.DB) error {
		ctx := tx.Statement.Context
		if err := l.Remove(ctx, c); err != nil {
			return err
		}
		return l.accounts.NoteUnblock(ctx, by, c.String())
	})
}

// A denylist is what is on files and what the operator has blocked, as the server asks for it.
type denylist struct {
	*deny.List
	blocked func(cid.Cid) bool
}

var _ server.Denylist = denylist{}

// blockList is where a match comes from that no file has.
const blockList = "blocks"

func (l denylist) Denied(c cid.Cid) error {
	if l.blocked(c) {
		return &deny.Match{What: c.String(), List: blockList}
	}
	return l.List.Denied(c)
}

func (l denylist) DeniedPath(p path.Path) error {
	if p.Namespace() == path.IPFSNamespace {
		if root, err := cid.Decode(p.Segments()[1]); err == nil && l.blocked(root) {
			return &deny.Match{What: strings.TrimSuffix(p.String(), "/"), List: blockList}
		}
	}
	return l.List.DeniedPath(p)
}

// uploadPins takes in what neither is on a denylist nor is blocked.
type uploadPins struct {
	*pins.Service
	denied denylist
}

// Refuse implements ingest.Pins.
func (p uploadPins) Refuse(root cid.Cid) error { return p.denied.Denied(root) }

// A blockLine is one block as it is printed.
type blockLine struct {
	CID    string    `json:"cid"`
	Reason string    `json:"reason"`
	By     string    `json:"by"`
	At     time.Time `json:"at"`
}

func (p *program) blockCommand() *cobra.Command {
	return group("block", "Block content everywhere, as after a report of abuse", p.blockAdd(), p.blockList(), p.blockRemove())
}

func (p *program) blockAdd() *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:   "add CID --reason TEXT",
		Short: "Block content: it is neither pinned nor read any more, and its pins fail",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			content, err := cid.Decode(args[0])
			if err != nil {
				return fmt.Errorf("%q is not a CID", args[0])
			}
			if reason = strings.TrimSpace(reason); reason == "" {
				return errors.New("say why: --reason")
			}
			return p.withStore(c, true, func(ctx context.Context, s *store) error {
				b, added, err := newBlocklist(s.db, s.tokens, p.now).Block(ctx, auth.Operator(), content, reason)
				if err != nil {
					return err
				}
				if !added {
					_, err = fmt.Fprintf(p.stdout, "%s is blocked since %s by %s: %s\n", content, moment(b.At), b.By, b.Reason)
					return err
				}
				_, err = fmt.Fprintf(p.stdout, "blocked %s; the servers of this database follow within seconds\n", content)
				return err
			})
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "Why, for other operators; users do not see it")
	return c
}

func (p *program) blockList() *cobra.Command {
	return withJSON(&cobra.Command{
		Use:   "list",
		Short: "List what is blocked",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return p.withStore(c, false, func(ctx context.Context, s *store) error {
				blocks := newBlocklist(s.db, s.tokens, p.now)
				lines := func(yield func(blockLine, error) bool) {
					for after := int64(0); ; {
						page, err := blocks.List(ctx, after, pageSize)
						if err != nil {
							yield(blockLine{}, err)
							return
						}
						for _, b := range page {
							if !yield(blockLine{b.CID.String(), b.Reason, b.By, b.At}, nil) {
								return
							}
							after = b.ID
						}
						if len(page) < pageSize {
							return
						}
					}
				}
				return printStream(c, lines, []string{"CID", "BY", "AT", "REASON"}, func(b blockLine) []string {
					return []string{b.CID, b.By, moment(b.At), b.Reason}
				})
			})
		},
	})
}

func (p *program) blockRemove() *cobra.Command {
	return &cobra.Command{
		Use:   "remove CID",
		Short: "Take a block back; pins that have failed stay so until they are asked for again",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			content, err := cid.Decode(args[0])
			if err != nil {
				return fmt.Errorf("%q is not a CID", args[0])
			}
			return p.withStore(c, false, func(ctx context.Context, s *store) error {
				err := newBlocklist(s.db, s.tokens, p.now).Unblock(ctx, auth.Operator(), content)
				if errors.Is(err, pins.ErrNotBlocked) {
					return fmt.Errorf("%s is not blocked", content)
				}
				return err
			})
		},
	}
}
