package mem_test

import (
	"testing"

	"github.com/stowage/stowage/internal/kv"
	"github.com/stowage/stowage/internal/kv/kvtest"
	"github.com/stowage/stowage/internal/kv/mem"
)

func TestDB(t *testing.T) {
	kvtest.Run(t, func(*testing.T) kv.DB { return mem.New() })
}
