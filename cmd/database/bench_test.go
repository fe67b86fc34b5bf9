package database_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"gorm.io/gorm"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
)

// A wide row is as costly to insert as a pin: nine columns, four indexes.
type wide struct {
	ID                     string
	Account, Created       int64
	Root, Name, Meta, Orig string
	Hot                    string
	Size                   int64
}

func openWide(b *testing.B) *database.DB {
	db := databasetest.Open(b)
	err := db.Write(b.Context(), func(tx *gorm.DB) error {
		return tx.Exec(`CREATE TABLE wides (id TEXT PRIMARY KEY, account BIGINT, created BIGINT, root TEXT, name TEXT,
			meta TEXT, orig TEXT, hot TEXT, size BIGINT) WITHOUT ROWID;
			CREATE UNIQUE INDEX w1 ON wides (account, created); CREATE INDEX w2 ON wides (root);
			CREATE INDEX w3 ON wides (account, name)`).Error
	})
	if err != nil {
		b.Fatal(err)
	}
	return db
}

func insertWide(tx *gorm.DB, n int64) error {
	return tx.Create(&wide{
		ID: fmt.Sprintf("%032d", n*7919), Account: n % 3, Created: n, Root: fmt.Sprint("root", n),
		Name: fmt.Sprint("name", n), Meta: "{}", Orig: "[]", Hot: "queued",
	}).Error
}

// BenchmarkInsert shows what sharing commits is worth: the same durable insert from 1, 16 and 64 goroutines, and with
// a commit of its own each. CGO's driver, the file system and the processor are the same in all of them.
func BenchmarkInsert(b *testing.B) {
	for _, writers := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("grouped/c=%d", writers), func(b *testing.B) {
			db := openWide(b)
			run(b, writers, func(n int64) error {
				return db.Write(b.Context(), func(tx *gorm.DB) error { return insertWide(tx, n) })
			})
		})
		b.Run(fmt.Sprintf("single/c=%d", writers), func(b *testing.B) {
			db := openWide(b)
			var one sync.Mutex // nobody can join, so that every row has a commit of its own
			run(b, writers, func(n int64) error {
				one.Lock()
				defer one.Unlock()
				return db.Write(b.Context(), func(tx *gorm.DB) error { return insertWide(tx, n) })
			})
		})
	}
}

func BenchmarkReadOneRow(b *testing.B) {
	for _, readers := range []int{1, 16} {
		b.Run(fmt.Sprintf("c=%d", readers), func(b *testing.B) {
			db := openWide(b)
			if err := db.Write(b.Context(), func(tx *gorm.DB) error { return insertWide(tx, 1) }); err != nil {
				b.Fatal(err)
			}
			run(b, readers, func(int64) error {
				var row wide
				return db.Read(b.Context(), func(tx *gorm.DB) error {
					return tx.Raw("SELECT * FROM wides WHERE account = ? AND created = ?", 1, 1).Scan(&row).Error
				})
			})
		})
	}
}

// run calls work b.N times from so many goroutines and reports the rate.
func run(b *testing.B, goroutines int, work func(n int64) error) {
	b.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range goroutines {
		wg.Go(func() {
			for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
				if err := work(n); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
}
