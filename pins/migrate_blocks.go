package pins

import (
	"github.com/go-gormigrate/gormigrate/v2"
	"gorm.io/gorm"
)

// blocksMigration lets the operator block content.
func blocksMigration() *gormigrate.Migration {
	return &gormigrate.Migration{
		ID: "20261129_10_blocks",
		Migrate: func(tx *gorm.DB) error {
			return execute(tx, blocksTables)
		},
	}
}

// multihash is in hexadecimal, without what a CID adds to it, so that every CID of the same bytes is the same here.
// blocks_version is another text after every change.
var blocksTables = []string{
	`CREATE TABLE blocked_content (
		id         SERIAL,
		multihash  CTEXT  NOT NULL UNIQUE,
		cid        TEXT   NOT NULL,
		reason     TEXT   NOT NULL,
		blocked_by TEXT   NOT NULL,
		blocked_ms BIGINT NOT NULL
	)`,
	`INSERT INTO pin_settings (name, value) VALUES ('blocks_version', '')`,
}
