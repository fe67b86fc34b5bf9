package pins

import (
	"github.com/go-gormigrate/gormigrate/v2"
	"gorm.io/gorm"
)

// holdingsMigration remembers what is stored for whom since when, for the ledger.
func holdingsMigration() *gormigrate.Migration {
	return &gormigrate.Migration{
		ID: "20261128_78_holdings",
		Migrate: func(tx *gorm.DB) error {
			return execute(tx, holdingsTables)
		},
	}
}

// A row of holdings is what a pin occupies from since_s on, in Unix seconds; ended_holdings are those that are over and that
// the ledger has not taken yet. What was held before there were these tables counts from now on, its cold copies from when
// their number changes.
var holdingsTables = []string{
	`CREATE TABLE holdings (
		pin     CTEXT  PRIMARY KEY,
		root_id BIGINT NOT NULL,
		account BIGINT NOT NULL,
		bytes   BIGINT NOT NULL,
		hot     BIGINT NOT NULL CHECK (hot IN (0, 1)),
		copies  BIGINT NOT NULL CHECK (copies >= 0),
		since_s BIGINT NOT NULL
	)`,
	`CREATE INDEX holdings_root ON holdings (root_id)`,
	`CREATE INDEX holdings_account ON holdings (account)`,
	`CREATE TABLE ended_holdings (
		id      SERIAL,
		pin     CTEXT  NOT NULL,
		account BIGINT NOT NULL,
		bytes   BIGINT NOT NULL,
		hot     BIGINT NOT NULL,
		copies  BIGINT NOT NULL,
		since_s BIGINT NOT NULL,
		until_s BIGINT NOT NULL,
		removed BIGINT NOT NULL
	)`,
	`CREATE INDEX ended_holdings_pin ON ended_holdings (pin, id)`,
	`INSERT INTO holdings (pin, root_id, account, bytes, hot, copies, since_s)
		SELECT p.id, r.id, p.account, r.bytes, 1, 0, NOW_S
		FROM pins p JOIN roots r ON r.id = p.root_id WHERE r.hot = 'held'`,
}
