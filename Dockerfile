# docker build -t maskingdepth .                             (CUDA; --build-arg WHEELS=--cpu without)
# docker run --rm --gpus all --shm-size 8g -v "$PWD/data:/maskingdepth/data" \
#     -v "$PWD/runs:/maskingdepth/runs" maskingdepth python train.py --conf conf/base_train.yaml
FROM python:3.11-slim
ARG WHEELS=--cuda
ENV PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PYTHONUNBUFFERED=1
WORKDIR /maskingdepth
# dependencies first: this layer is rebuilt only when they change
COPY package_install.sh requirements.txt ./
RUN sh package_install.sh --no-venv $WHEELS
COPY . .
CMD ["python", "train.py"]
