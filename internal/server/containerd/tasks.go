package containerd

import (
	"context"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"google.golang.org/grpc"
)

// tasksService says that nothing runs. What can only be done to a task that runs is unimplemented.
type tasksService struct {
	tasks.UnimplementedTasksServer
	server *Server
}

func registerTasks(r grpc.ServiceRegistrar, s *Server) {
	tasks.RegisterTasksServer(r, &tasksService{server: s})
}

// Get finds none.
func (t *tasksService) Get(_ context.Context, req *tasks.GetRequest) (*tasks.GetResponse, error) {
	return nil, noContainer(req.ContainerID)
}

// List is empty.
func (t *tasksService) List(ctx context.Context, _ *tasks.ListTasksRequest) (*tasks.ListTasksResponse, error) {
	_, err := t.server.in(ctx)
	return &tasks.ListTasksResponse{}, err
}

// Metrics are none.
func (t *tasksService) Metrics(ctx context.Context, _ *tasks.MetricsRequest) (*tasks.MetricsResponse, error) {
	_, err := t.server.in(ctx)
	return &tasks.MetricsResponse{}, err
}

// Create is refused.
func (t *tasksService) Create(context.Context, *tasks.CreateTaskRequest) (*tasks.CreateTaskResponse, error) {
	return nil, errNoContainers
}

// Start is refused.
func (t *tasksService) Start(context.Context, *tasks.StartRequest) (*tasks.StartResponse, error) {
	return nil, errNoContainers
}

// Delete finds none.
func (t *tasksService) Delete(_ context.Context, req *tasks.DeleteTaskRequest) (*tasks.DeleteResponse, error) {
	return nil, noContainer(req.ContainerID)
}
