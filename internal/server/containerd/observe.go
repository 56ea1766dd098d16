package containerd

import (
	"context"
	"maps"

	"github.com/containerd/containerd/api/events"
	leases "github.com/containerd/containerd/api/services/leases/v1"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stowage/stowage/internal/metadata"
)

// observe publishes what acts did to the store.
func (x *exchange) observe(_ context.Context, list []metadata.Change) error {
	now := timestamppb.Now()
	for i, c := range list {
		var topic string
		var event proto.Message
		switch key, is := committed(list, i), committed(list, i+1) != ""; {
		case is: // and the next says so
		case key != "":
			topic, event = "/snapshot/commit", &events.SnapshotCommit{Key: key, Name: c.New.(*metadata.Snapshot).Key, Snapshotter: theirSnapshotter(c.Snapshotter)}
		default:
			topic, event = eventOf(c)
		}
		if event == nil {
			continue
		}
		packed, err := packed(event)
		if err != nil {
			return err
		}
		x.publish(&types.Envelope{Timestamp: now, Namespace: c.Namespace, Topic: topic, Event: packed})
	}
	return nil
}

// committed is the key of the active snapshot that change i made a committed one of, by the change
// before it; empty if that is not what they did.
func committed(list []metadata.Change, i int) (key string) {
	if i < 1 || i >= len(list) {
		return ""
	}
	old, _ := list[i-1].Old.(*metadata.Snapshot)
	is, _ := list[i].New.(*metadata.Snapshot)
	same := list[i-1].Namespace == list[i].Namespace && list[i-1].Snapshotter == list[i].Snapshotter
	if !same || old == nil || list[i-1].New != nil || old.Kind != metadata.Active || is == nil || list[i].Old != nil || is.Kind != metadata.Committed {
		return ""
	}
	return old.Key
}

// eventOf is what containerd would say of one change; nil if it would say nothing.
func eventOf(c metadata.Change) (topic string, event proto.Message) {
	switch is := c.New.(type) {
	case *metadata.Namespace:
		old, ok := c.Old.(*metadata.Namespace)
		if !ok {
			return "/namespaces/create", &events.NamespaceCreate{Name: is.Name, Labels: is.Labels}
		}
		if !maps.Equal(old.Labels, is.Labels) {
			return "/namespaces/update", &events.NamespaceUpdate{Name: is.Name, Labels: is.Labels}
		}
		return "", nil
	case *metadata.Image:
		old, ok := c.Old.(*metadata.Image)
		if !ok {
			return "/images/create", &events.ImageCreate{Name: is.Name, Labels: is.Labels}
		}
		if !old.UpdatedAt.Equal(is.UpdatedAt) { // else it is what is here of it that is another
			return "/images/update", &events.ImageUpdate{Name: is.Name, Labels: is.Labels}
		}
		return "", nil
	case *metadata.Blob:
		if c.Old == nil {
			return "/content/create", &events.ContentCreate{Digest: is.Digest.String(), Size: is.Size}
		}
		return "", nil
	case *metadata.Lease:
		if c.Old == nil {
			return "/leases/create", leaseToProto(*is)
		}
		return "", nil
	case *metadata.Snapshot:
		snapshotter := theirSnapshotter(c.Snapshotter)
		switch {
		case c.Old != nil:
		case is.Kind == metadata.Active:
			return "/snapshot/prepare", &events.SnapshotPrepare{Key: is.Key, Parent: is.Parent, Snapshotter: snapshotter}
		case is.Kind == metadata.Committed: // unpacked at once, without a key before
			return "/snapshot/commit", &events.SnapshotCommit{Name: is.Key, Snapshotter: snapshotter}
		}
		return "", nil
	}
	switch old := c.Old.(type) {
	case *metadata.Namespace:
		return "/namespaces/delete", &events.NamespaceDelete{Name: old.Name}
	case *metadata.Image:
		return "/images/delete", &events.ImageDelete{Name: old.Name}
	case *metadata.Blob:
		return "/content/delete", &events.ContentDelete{Digest: old.Digest.String()}
	case *metadata.Lease:
		return "/leases/delete", &leases.DeleteRequest{ID: old.ID}
	case *metadata.Snapshot:
		return "/snapshot/remove", &events.SnapshotRemove{Key: old.Key, Snapshotter: theirSnapshotter(c.Snapshotter)}
	}
	return "", nil
}
