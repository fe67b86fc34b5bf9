package database_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"

	"gorm.io/gorm"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
)

// writerVariable makes the test binary a process that writes to the database it names until it is killed.
const writerVariable = "FROSTPIN_TEST_WRITER"

// writeUntilKilled inserts rows from many goroutines and prints each id after its acknowledgement.
func writeUntilKilled(dsn string) int {
	ctx := context.Background()
	db, err := database.Open(ctx, dsn, slog.New(slog.DiscardHandler))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var first int64
	err = db.Read(ctx, func(tx *gorm.DB) error {
		return tx.Model(&item{}).Select("coalesce(max(id), 0) + 1").Scan(&first).Error
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var wg sync.WaitGroup
	for worker := range int64(32) {
		wg.Go(func() {
			for id := first + worker; ; id += 32 {
				if err := db.Write(ctx, func(tx *gorm.DB) error { return insert(tx, id) }); err != nil {
					fmt.Fprintln(os.Stderr, err)
					return
				}
				fmt.Println(id) // one write call: whole lines, whoever else prints
			}
		})
	}
	wg.Wait()
	return 1
}

func TestAcknowledgedWritesSurviveAKilledProcess(t *testing.T) {
	for _, dialect := range databasetest.Dialects(t) {
		t.Run(dialect, func(t *testing.T) {
			dsn := databasetest.DSN(t, dialect)
			db, err := database.Open(t.Context(), dsn, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			if err := db.Migrate(t.Context(), schema()...); err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			acknowledged := make(map[int64]bool)
			for _, kill := range []int{1, 50, 333, 700} { // after so many acknowledgements
				for _, id := range writeAndKill(t, dsn, kill) {
					acknowledged[id] = true
				}
			}
			db, err = database.Open(t.Context(), dsn, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := db.Close(); err != nil {
					t.Error(err)
				}
			}()
			var ids []int64
			err = db.Read(t.Context(), func(tx *gorm.DB) error { return tx.Model(&item{}).Pluck("id", &ids).Error })
			if err != nil {
				t.Fatal(err)
			}
			for _, id := range ids {
				delete(acknowledged, id)
			}
			if len(acknowledged) > 0 {
				t.Errorf("%d acknowledged rows are gone", len(acknowledged))
			}
		})
	}
}

// writeAndKill starts a writing process, kills it after so many acknowledgements and returns all that it gave.
func writeAndKill(t *testing.T, dsn string, after int) []int64 {
	t.Helper()
	writer := exec.Command(os.Args[0])
	writer.Env = append(os.Environ(), writerVariable+"="+dsn)
	writer.Stderr = os.Stderr
	output, err := writer.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := writer.Start(); err != nil {
		t.Fatal(err)
	}
	var ids []int64
	for lines := bufio.NewScanner(output); lines.Scan(); {
		id, err := strconv.ParseInt(lines.Text(), 10, 64)
		if err != nil {
			break // cut off by the kill
		}
		if ids = append(ids, id); len(ids) == after {
			if err := writer.Process.Kill(); err != nil {
				t.Error(err)
			}
		}
	}
	if err := writer.Wait(); err == nil || len(ids) < after {
		t.Errorf("the writer ended by itself after %d rows: %v", len(ids), err)
	}
	return ids
}
