# An image in which `hairpin launch` runs on SageMaker and Kubernetes: the program, Open MPI, and ssh between the machines of a job.
#   docker build -t hairpin .
FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends libopenmpi-dev libclang-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release -p hairpin --features mpi,cloud --no-default-features --features parquet

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends openmpi-bin libopenmpi3 openssh-server openssh-client ca-certificates \
 && rm -rf /var/lib/apt/lists/* /etc/ssh/ssh_host_* \
 # Machines of one job let one another in, and nobody else reaches them: the key is this image's own. Build your own image.
 && ssh-keygen -A && ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519 \
 && cp /root/.ssh/id_ed25519.pub /root/.ssh/authorized_keys \
 && printf 'StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\n' > /root/.ssh/config \
 && printf 'PermitRootLogin prohibit-password\nPasswordAuthentication no\n' > /etc/ssh/sshd_config.d/job.conf
COPY --from=build /src/target/release/hairpin /usr/local/bin/hairpin
# SIGTERM goes to `hairpin work`, which passes it on.
CMD ["hairpin", "work"]
