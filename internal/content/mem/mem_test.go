package mem_test

import (
	"testing"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/content/contenttest"
	"github.com/stowage/stowage/internal/content/mem"
)

func TestStore(t *testing.T) {
	contenttest.Run(t, func(*testing.T) content.Store { return mem.New() })
}
