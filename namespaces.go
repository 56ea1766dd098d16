package stowage

import (
	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/metadata"
)

// In is the store on another namespace, which need not be there yet. It is a view of s, ends with it,
// and is not closed.
func (s *Store) In(ns string) (*Store, error) {
	if err := metadata.CheckNamespace(ns); err != nil {
		return nil, err
	}
	if ns != s.ns {
		if err := s.owned("work in another namespace"); err != nil {
			return nil, err
		}
	}
	return s.in(ns), nil
}

// in is [Store.In] for a namespace that is known to be one.
func (s *Store) in(ns string) *Store {
	if ns == s.ns {
		return s
	}
	s.views.Lock()
	defer s.views.Unlock()
	of := s.views.of[ns]
	if of == nil {
		of = &Store{
			root: s.root, nosync: s.nosync, ns: ns, db: s.db, mark: s.mark, held: s.held, meta: s.meta, content: s.content,
			reg: s.reg, nameless: s.nameless, log: s.log, tell: s.tell, snapshotter: s.snapshotter, proxies: s.proxies, unpack: s.unpack, gc: s.gc, large: s.large,
			opened: map[string]*Snapshotter{}, views: s.views,
		}
		s.views.of[ns] = of
	}
	return of
}

// Content and Metadata are what the faces of the daemon stand on, which translate requests for blobs
// and rows one by one. They belong to the store.
func (s *Store) Content() content.Store { return s.content }

// Metadata is the store's: see [Store.Content].
func (s *Store) Metadata() *metadata.Store { return s.meta }
