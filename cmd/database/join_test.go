package database_test

import (
	"context"
	"errors"
	"testing"

	"gorm.io/gorm"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
)

func TestReadSeesOneSnapshot(t *testing.T) {
	databasetest.Each(t, schema(), func(t *testing.T, db *database.DB) {
		err := db.Read(t.Context(), func(tx *gorm.DB) error {
			var before, after int64
			if err := tx.Model(&item{}).Count(&before).Error; err != nil {
				return err
			}
			if err := db.Write(t.Context(), func(tx *gorm.DB) error { return insert(tx, 1) }); err != nil {
				return err
			}
			if err := tx.Model(&item{}).Count(&after).Error; err != nil {
				return err
			}
			if before != after {
				t.Errorf("the snapshot changed from %d to %d rows", before, after)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := count(t, db); got != 1 {
			t.Errorf("a later read counts %d rows", got)
		}
	})
}

func TestReadCannotChangeAnything(t *testing.T) {
	databasetest.Each(t, schema(), func(t *testing.T, db *database.DB) {
		if err := db.Read(t.Context(), func(tx *gorm.DB) error { return insert(tx, 1) }); err == nil {
			t.Error("a read inserted a row")
		}
		err := db.Read(t.Context(), func(tx *gorm.DB) error {
			return db.Write(tx.Statement.Context, func(tx *gorm.DB) error { return insert(tx, 1) })
		})
		if err == nil {
			t.Error("a write inside a read inserted a row")
		}
	})
}

func TestNestedWriteJoinsTheTransactionOfItsContext(t *testing.T) {
	databasetest.Each(t, schema(), func(t *testing.T, db *database.DB) {
		inner := func(ctx context.Context, id int64) error {
			return db.Write(ctx, func(tx *gorm.DB) error { return insert(tx, id) })
		}
		mine := errors.New("mine")
		err := db.Write(t.Context(), func(tx *gorm.DB) error {
			if err := inner(tx.Statement.Context, 1); err != nil {
				return err
			}
			return mine
		})
		if !errors.Is(err, mine) || count(t, db) != 0 {
			t.Errorf("got %v and %d rows: the inner write outlived the outer one", err, count(t, db))
		}
		err = db.Write(t.Context(), func(tx *gorm.DB) error {
			if err := insert(tx, 1); err != nil {
				return err
			}
			var seen int64
			err := db.Read(tx.Statement.Context, func(tx *gorm.DB) error { return tx.Model(&item{}).Count(&seen).Error })
			if seen != 1 {
				t.Errorf("a joined read counts %d rows, want the one written before it", seen)
			}
			return errors.Join(err, inner(tx.Statement.Context, 2))
		})
		if err != nil || count(t, db) != 2 {
			t.Errorf("got %v and %d rows, want both", err, count(t, db))
		}
	})
}

func TestOverlookedErrorOfAJoinedWriteFailsTheWhole(t *testing.T) {
	databasetest.Each(t, schema(), func(t *testing.T, db *database.DB) {
		mine := errors.New("mine")
		err := db.Write(t.Context(), func(tx *gorm.DB) error {
			if err := db.Write(tx.Statement.Context, func(*gorm.DB) error { return mine }); err == nil {
				t.Error("the inner error was lost")
			}
			return insert(tx, 1)
		})
		if !errors.Is(err, mine) || count(t, db) != 0 {
			t.Errorf("got %v and %d rows", err, count(t, db))
		}
	})
}

func TestTransactionCannotBeJoinedAfterItsEnd(t *testing.T) {
	databasetest.Each(t, schema(), func(t *testing.T, db *database.DB) {
		var ended context.Context
		err := db.Write(t.Context(), func(tx *gorm.DB) error { ended = tx.Statement.Context; return nil })
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Write(ended, func(tx *gorm.DB) error { return insert(tx, 1) }); err == nil {
			t.Error("a write joined a transaction that had ended")
		}
	})
}

func TestGormsOwnTransactionIsASavepoint(t *testing.T) {
	databasetest.Each(t, schema(), func(t *testing.T, db *database.DB) {
		err := db.Write(t.Context(), func(tx *gorm.DB) error {
			if err := insert(tx, 1); err != nil {
				return err
			}
			inner := tx.Transaction(func(tx *gorm.DB) error { return errors.Join(insert(tx, 2), errors.New("undo")) })
			if inner == nil {
				t.Error("the inner error was lost")
			}
			return nil
		})
		if err != nil || count(t, db) != 1 {
			t.Errorf("got %v and %d rows, want the outer one only", err, count(t, db))
		}
	})
}
