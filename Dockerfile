# The toolkit with everything that the demo needs, from package indexes alone:
#   docker build -t spin-toolkit . && docker run --rm --shm-size=1g spin-toolkit
# Docker gives 64 MiB of shared memory, which is less than two ranks on CPUs talk through.
# For GPUs leave TORCH_INDEX empty, so that pip takes the build with CUDA.
FROM python:3.11-slim-bookworm
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN apt-get -qq update && apt-get -qq install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/spin-toolkit
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY spin_theory spin_theory
COPY spin_train spin_train
RUN pip install --no-cache-dir --constraint constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} setuptools wheel torch
RUN pip install --no-cache-dir --constraint constraints.txt '.[plots,train,peft,gguf]'
RUN useradd --create-home spin
USER spin
WORKDIR /home/spin
# DeepSpeed's communication operation is compiled once.
RUN python -c 'from spin_train.system.processes import build_communication_op as build; build()'
CMD ["spin-train", "demo"]
